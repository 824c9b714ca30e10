"""The client of a process group's own engine: it outlives each engine, and resubmits requests to the next one."""

from __future__ import annotations

import asyncio
import time

import zmq.asyncio

from gllm.config import Config
from gllm.engine.client.link import EngineLink, EventsHandler
from gllm.engine.client.requests import LiveRequests
from gllm.engine.client.stream import EngineError, OutputStream
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import EngineStats, Hello
from gllm.wire.origin import NO_ORIGIN, Origin

_IDLE_CHECK_SECONDS = 0.1


class EngineClient:
    """One connection to one engine at a time. All methods belong to one running asyncio loop.

    Between `pause` and the next `connect` there is no engine, but requests stay live and new ones may be added.
    `engine_down` ends all of them.
    """

    def __init__(self, config: Config) -> None:
        self.limits: Hello | None = None
        """`hello`; during a restart the last engine's `hello`."""
        self.on_events: EventsHandler = lambda name, events, stats: None
        """Gets what `watch` asks for. The name is empty: there is one engine."""
        self.requests = LiveRequests(lambda stream: self._link if self.hello is not None else None)
        self._config = config
        self._context: zmq.asyncio.Context | None = None
        self._link: EngineLink | None = None
        self._last_link: EngineLink | None = None

    @property
    def hello(self) -> Hello | None:
        """None while no engine serves."""
        return self._link.hello if self._link is not None else None

    @property
    def stats(self) -> EngineStats:
        return self._last_link.stats if self._last_link is not None else EngineStats()

    @property
    def last_message_time(self) -> float:
        """time.monotonic() of the engine's last message."""
        return self._last_link.last_message_time if self._last_link is not None else 0.0

    @property
    def num_live(self) -> int:
        """The number of requests that were submitted and have not ended."""
        return len(self.requests)

    async def connect(self, epoch: int, timeout: float = 600.0) -> Hello:
        """Wait until the engine of this epoch is ready, then use it; it gets the live requests of an earlier one.

        Raises EngineError after `timeout` seconds, or when `connect`, `pause` or `close` is called meanwhile.
        """
        self.pause("the engine is being restarted")
        if self._context is None:
            self._context = zmq.asyncio.Context()
        link = self._link = self._last_link = EngineLink(
            self._context,
            self._config.engine_address_of(epoch),
            epoch=epoch,
            on_output=self.requests.on_output,
            on_events=lambda events, stats: self.on_events("", events, stats),
        )
        try:
            hello = await link.greet(timeout)
        except BaseException:
            if self._link is link:
                self._disconnect()
            raise
        self.limits = hello
        self.requests.submit_waiting()
        return hello

    def generate(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        origin: Origin = NO_ORIGIN,
    ) -> OutputStream:
        """Submit a request and return its outputs. During a restart it is submitted when the next engine serves.

        Raises ValueError if `request_id` is live. Raises EngineError if there is no engine and none will start, or
        while iterating, if the engine refuses the request or ends for good.
        """
        if self.limits is None:
            raise EngineError("the engine is not ready")
        return self.requests.add(request_id, token_ids, sampling, priority, cache_salt, origin)

    def pause(self, reason: str) -> None:
        """Record that the engine ended and another one starts. Live requests wait, or fail if they lost too many."""
        link = self._disconnect()
        if link is not None:
            self.requests.lose(link, reason)

    def leave(self) -> None:
        """Let the engine tell its gateways on other machines that the group will end."""
        if self._link is not None:
            self._link.leave()

    def watch(self, seconds: float) -> dict[str, Hello]:
        """Ask for events of the pipeline for some time. Returns the engine that will send them, if it serves."""
        if self._link is None or self._link.hello is None:
            return {}
        self._link.watch(seconds)
        return {"": self._link.hello}

    async def idle(self) -> None:
        """Wait until the engine has no requests of any gateway, or is lost."""
        began = time.monotonic()
        while (link := self._link) is not None:
            if link.stats_time > began and not link.stats.num_running + link.stats.num_waiting:
                return
            await asyncio.sleep(_IDLE_CHECK_SECONDS)

    def engine_down(self, reason: str) -> None:
        """Record that no engine will start: live requests raise EngineError(reason) after their outputs so far."""
        self._disconnect()
        self.limits = None
        self.requests.fail_all(reason)

    async def close(self) -> None:
        """Close the connection; live requests fail."""
        self.engine_down("the engine client was closed")
        if self._last_link is not None:
            await self._last_link.closed()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def _disconnect(self) -> EngineLink | None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        return link
