"""The asyncio end of the engine's socket: submits requests and hands out what comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

import msgspec
import zmq
import zmq.asyncio

from gllm.config import Config
from gllm.messages import Abort, Connect, EngineStats, EngineToGateway, Hello, RequestOutput, Submit
from gllm.sampling_params import SamplingParams
from gllm.transport import configure_socket, decoder, encode

logger = logging.getLogger("gllm.engine.client")

_CONNECT_SECONDS = 0.1


class EngineError(Exception):
    """The engine died or refused; str(e) is fit for a client."""


class OutputStream(AsyncIterator[RequestOutput]):
    """The outputs of one request; the last one has `finish_reason`.

    Outputs that arrive before the consumer asks are merged into one. Leaving early, by `aclose` or by a
    cancelled `__anext__`, aborts the request. For one consumer at a time.
    """

    def __init__(self, client: EngineClient, request_id: str) -> None:
        self.request_id = request_id
        self._client = client
        self._pending: RequestOutput | None = None
        self._error: str | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            if self._pending is not None:
                output, self._pending = self._pending, None
                self._ended = output.finish_reason is not None
                return output
            if self._error is not None:
                self._ended = True
                raise EngineError(self._error)
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._waiter = None

    async def aclose(self) -> None:
        """Stop listening; the engine drops the request if it still runs. Idempotent."""
        self._ended = True
        self._pending = None
        self._error = None
        self._client._leave(self.request_id, self)
        self._wake()

    def _put(self, output: RequestOutput) -> None:
        if not self._ended:
            self._pending = output if self._pending is None else merge(self._pending, output)
            self._wake()

    def _fail(self, reason: str) -> None:
        self._error = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge(first: RequestOutput, then: RequestOutput) -> RequestOutput:
    """Two successive outputs of a request as one."""
    logprobs = None
    if first.logprobs is not None or then.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(then.logprobs or ())]
    return RequestOutput(
        request_id=first.request_id,
        token_ids=first.token_ids + then.token_ids,
        finish_reason=then.finish_reason,
        stop_token_id=then.stop_token_id,
        error=then.error,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs if first.prompt_logprobs is not None else then.prompt_logprobs,
        num_cached_tokens=max(first.num_cached_tokens, then.num_cached_tokens),
        queue_time=first.queue_time or then.queue_time,
        prefill_time=first.prefill_time or then.prefill_time,
        num_preemptions=max(first.num_preemptions, then.num_preemptions),
    )


class EngineClient:
    """One connection to one engine at a time. All methods belong to one running asyncio loop."""

    def __init__(self, config: Config) -> None:
        self.hello: Hello | None = None
        """None while no engine serves."""
        self.stats = EngineStats()
        self.last_heard = 0.0
        """time.monotonic() of the engine's last message."""
        self._config = config
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._greeted: asyncio.Future[Hello] | None = None
        self._live: dict[str, OutputStream] = {}
        self._decoder = decoder(EngineToGateway)

    @property
    def num_live(self) -> int:
        """Requests submitted and not yet ended."""
        return len(self._live)

    async def connect(self, epoch: int, timeout: float = 600.0) -> Hello:
        """Wait for the engine of this epoch to be ready, then use it; requests of an older one fail first.

        Raises EngineError after `timeout` seconds, or when a later `connect` or `close` takes over.
        """
        self.engine_down("the engine is being restarted")
        self._disconnect()
        if self._context is None:
            self._context = zmq.asyncio.Context()
        socket = self._socket = self._context.socket(zmq.DEALER)
        configure_socket(socket)
        socket.connect(self._config.engine_address_of(epoch))
        greeted: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._greeted = greeted
        self._reader = asyncio.create_task(self._read(socket, greeted, epoch))
        deadline = time.monotonic() + timeout
        try:
            while time.monotonic() < deadline:
                socket.send(encode(Connect()))
                await asyncio.wait((greeted,), timeout=min(_CONNECT_SECONDS, timeout))
                if greeted.cancelled():
                    raise EngineError("the connection to the engine was given up")
                if greeted.done():
                    return greeted.result()
        except asyncio.CancelledError:
            if self._socket is socket:
                self._disconnect()
            raise
        if self._socket is socket:
            self._disconnect()
        raise EngineError(f"the engine was not ready within {timeout:g} seconds")

    def generate(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
    ) -> OutputStream:
        """Submit a request now, and return its outputs. `request_id` must not be live (ValueError).

        Raises EngineError here if no engine serves, or while iterating if it goes down.
        """
        if self.hello is None or self._socket is None:
            raise EngineError("the engine is not ready")
        if request_id in self._live:
            raise ValueError(f"request_id {request_id!r} is already live")
        stream = self._live[request_id] = OutputStream(self, request_id)
        self._socket.send(encode(Submit(request_id, token_ids, sampling, priority, cache_salt)))
        return stream

    def engine_down(self, reason: str) -> None:
        """The engine is gone: every live request raises EngineError(reason) once its outputs so far are read."""
        self.hello = None
        live, self._live = self._live, {}
        for stream in live.values():
            stream._fail(reason)

    async def close(self) -> None:
        """Leave the engine; live requests fail."""
        self.engine_down("the engine client was closed")
        reader = self._reader
        self._disconnect()
        if reader is not None:
            with suppress(asyncio.CancelledError):
                await reader
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def _disconnect(self) -> None:
        if self._greeted is not None and not self._greeted.done():
            self._greeted.cancel()
        if self._reader is not None:
            self._reader.cancel()
        if self._socket is not None:
            self._socket.close(linger=0)
        self._greeted = self._reader = self._socket = None

    def _leave(self, request_id: str, stream: OutputStream) -> None:
        if self._live.get(request_id) is stream:
            del self._live[request_id]
            if self._socket is not None:
                self._socket.send(encode(Abort([request_id])))

    async def _read(self, socket: zmq.asyncio.Socket, greeted: asyncio.Future[Hello], epoch: int) -> None:
        while True:
            payload = await socket.recv()
            try:
                message = self._decoder.decode(payload)
            except msgspec.DecodeError as error:
                logger.error("engine sent what does not decode", extra={"reason": str(error)})
                continue
            self.last_heard = time.monotonic()
            if isinstance(message, Hello):
                if message.epoch == epoch and not greeted.done():
                    self.hello = message
                    greeted.set_result(message)
                continue
            self.stats = message.stats
            for output in message.outputs:
                stream = self._live.get(output.request_id)
                if stream is not None:
                    if output.finish_reason is not None:
                        del self._live[output.request_id]
                    stream._put(output)
