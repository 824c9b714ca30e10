"""A process group and its client behind one background thread, for programs that are not asynchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gllm.config import Config
from gllm.engine.client.client import EngineClient
from gllm.engine.client.stream import EngineError
from gllm.supervisor.group import EngineGroup
from gllm.supervisor.group_interface import GroupError, GroupEvent, GroupFailed
from gllm.wire.messages import EngineDown, EngineUp, Hello, ProcessStatus

T = TypeVar("T")

_RETRY_SECONDS = 0.1


GroupFactory = Callable[[Config, Callable[[GroupEvent], None]], EngineGroup]
ClientFactory = Callable[[Config], EngineClient]


def real_group(config: Config, on_event: Callable[[GroupEvent], None]) -> EngineGroup:
    return EngineGroup(config, on_event=on_event)


class OfflineEngine:
    """The constructor starts the engine; `close` ends its processes and the thread.

    Raises RuntimeError, with the reason in one line, if the engine cannot start.
    """

    client: EngineClient
    hello: Hello

    def __init__(
        self,
        config: Config,
        *,
        on_status: Callable[[ProcessStatus], None] = lambda status: None,
        make_group: GroupFactory = real_group,
        make_client: ClientFactory = EngineClient,
    ) -> None:
        self._on_status = on_status
        self._make_group = make_group
        self._make_client = make_client
        self._config = config
        self._group: EngineGroup | None = None
        self._client: EngineClient | None = None
        self._failure: str | None = None
        self._connecting: asyncio.Future[None] | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        # A daemon thread: an interpreter that exits without `close` does not wait for it; the child processes end too.
        self._thread = threading.Thread(target=self._loop.run_forever, name="gllm-engine", daemon=True)
        self._thread.start()
        try:
            self.call(self._start())
        except GroupError as error:
            self.close()
            raise RuntimeError(str(error)) from None
        except BaseException:
            self.close()
            raise

    @property
    def failure(self) -> str | None:
        """The reason why the engine ended; None while it serves."""
        return "the engine was closed" if self._closed else self._failure

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` in the engine's event loop without waiting for it. Raises RuntimeError after `close`."""
        if self._closed:
            work.close()
            raise RuntimeError("the engine was closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the engine's event loop and wait; Ctrl-C cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _start(self) -> None:
        self._group = group = self._make_group(self._config, self._on_event)
        await group.start()
        await group.wait_ready()
        self._client = self.client = self._make_client(group.config)
        while True:
            try:
                self.hello = await self.client.connect(group.config.epoch)
                break
            except EngineError as error:
                # The engine died meanwhile. If it restarts, `_reconnect` connects.
                if self._failure is not None:
                    raise GroupError(self._failure) from error
                await asyncio.sleep(_RETRY_SECONDS)

    def _on_event(self, event: GroupEvent) -> None:
        """Follow the process group: a dead engine is replaced and its requests resubmitted; GroupFailed is final."""
        client = self._client
        match event:
            case ProcessStatus():
                self._on_status(event)
            case EngineUp(epoch=epoch) if client is not None:
                self._connecting = asyncio.ensure_future(self._reconnect(client, epoch))
            case EngineDown(reason=reason, recovery_seconds=seconds) if seconds:
                if client is not None:
                    client.pause(reason)
            case EngineDown(reason=reason) | GroupFailed(reason=reason) if client is not None:
                self._failure = reason
                client.engine_down(reason)
            case GroupFailed(reason=reason):
                self._failure = reason

    @staticmethod
    async def _reconnect(client: EngineClient, epoch: int) -> None:
        with contextlib.suppress(EngineError):  # the group reports an engine that does not answer
            await client.connect(epoch)

    async def _stop(self) -> None:
        this = asyncio.current_task()
        pending = [task for task in asyncio.all_tasks() if task is not this] if self._client else []
        if self._client is not None:
            self._client.engine_down("the engine was closed")
        if self._group is not None:
            await self._group.stop()
        if self._client is not None:
            await self._client.close()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def close(self) -> None:
        """End every process and the thread. Any thread but the engine's own may call it. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        stopping = asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        try:
            stopping.result()
        except BaseException:
            # A second Ctrl-C, or a group that fails to stop: kill what is left.
            if self._group is not None:
                self._group.kill()
            raise
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5.0)
            if not self._thread.is_alive():
                with contextlib.suppress(RuntimeError):
                    self._loop.close()
