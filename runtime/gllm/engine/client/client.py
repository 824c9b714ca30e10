"""The client's end of the engine's socket, for asyncio: it submits requests, and resubmits them to the next engine.

No request is lost with an engine: the client keeps the prompt and the generated tokens of each, and submits them to the
next engine, which continues with the same tokens that the last one would have generated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress

import msgspec
import zmq
import zmq.asyncio

from gllm.config import Config
from gllm.engine.client.resubmit import RequestRecord, for_engine
from gllm.engine.client.stream import EngineError, OutputStream
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import Abort, Connect, EngineStats, EngineToGateway, Hello, RequestOutputs, Submit
from gllm.wire.transport import configure_socket, decoder, encode

logger = logging.getLogger("gllm.engine.client")

_CONNECT_SECONDS = 0.1


class EngineClient:
    """One connection to one engine at a time. All methods belong to one running asyncio loop.

    Between `pause` and the next `connect` there is no engine, but requests stay live and new ones may be added.
    `engine_down` ends all of them.
    """

    def __init__(self, config: Config) -> None:
        self.hello: Hello | None = None
        """None while no engine serves."""
        self.limits: Hello | None = None
        """`hello`; during a restart the last engine's `hello`."""
        self.stats = EngineStats()
        self.last_message_time = 0.0
        """time.monotonic() of the engine's last message."""
        self._config = config
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._greeted: asyncio.Future[Hello] | None = None
        self._live: dict[str, OutputStream] = {}
        self._suspects: deque[OutputStream] = deque()
        """Live requests, not sent yet, that may have caused the failures."""
        self._trial: OutputStream | None = None
        """The suspect that the engine has; the next one is sent when this one has a token or has ended."""
        self._decoder = decoder(EngineToGateway)

    @property
    def num_live(self) -> int:
        """The number of requests that were submitted and have not ended."""
        return len(self._live)

    async def connect(self, epoch: int, timeout: float = 600.0) -> Hello:
        """Wait until the engine of this epoch is ready, then use it; it gets the live requests of an earlier one.

        Raises EngineError after `timeout` seconds, or when `connect`, `pause` or `close` is called meanwhile.
        """
        self.pause("the engine is being restarted")
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
                    raise EngineError("the connection to the engine was closed")
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
        """Submit a request and return its outputs. During a restart it is submitted when the next engine serves.

        Raises ValueError if `request_id` is live. Raises EngineError if there is no engine and none will start, or
        while iterating, if the engine refuses the request or ends for good.
        """
        if self.limits is None:
            raise EngineError("the engine is not ready")
        if request_id in self._live:
            raise ValueError(f"request_id {request_id!r} is already live")
        record = RequestRecord(
            Submit(
                request_id=request_id,
                token_ids=token_ids,
                sampling=for_engine(sampling),
                priority=priority,
                cache_salt=cache_salt,
            )
        )
        stream = self._live[request_id] = OutputStream(request_id, record, self._leave)
        if self.hello is not None:
            self._submit(stream)
        return stream

    def pause(self, reason: str) -> None:
        """Record that the engine ended and another one starts. Live requests wait, or fail if they lost too many."""
        self.hello = None
        self._disconnect()
        self._trial = None
        self._suspects.clear()
        for stream in list(self._live.values()):
            stream.record.on_engine_lost()
            if stream.record.exhausted:
                del self._live[stream.request_id]
                stream.fail(
                    f"the engine failed {stream.record.losses} times in a row while it had this request, "
                    f"which is not submitted again: {reason}"
                )

    def engine_down(self, reason: str) -> None:
        """Record that no engine will start: live requests raise EngineError(reason) after their outputs so far."""
        self.hello = self.limits = None
        self._trial = None
        self._suspects.clear()
        live, self._live = self._live, {}
        for stream in live.values():
            stream.fail(reason)

    async def close(self) -> None:
        """Close the connection; live requests fail."""
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

    # --- requests ------------------------------------------------------------------------------------

    def _submit(self, stream: OutputStream) -> None:
        if self._socket is not None:
            self._socket.send(encode(stream.record.to_submit()))

    def _resubmit(self) -> None:
        """Submit all live requests to a new engine, in order of arrival; suspects one after another."""
        for stream in self._live.values():
            if stream.record.suspect:
                self._suspects.append(stream)
            else:
                self._submit(stream)
        self._try_next_suspect()

    def _try_next_suspect(self) -> None:
        self._trial = None
        while self._suspects and self._trial is None:
            stream = self._suspects.popleft()
            if self._live.get(stream.request_id) is stream:
                self._trial = stream
                self._submit(stream)

    def _leave(self, stream: OutputStream) -> None:
        if self._live.get(stream.request_id) is not stream:
            return
        del self._live[stream.request_id]
        if self._socket is not None and stream.record.sent:
            self._socket.send(encode(Abort([stream.request_id])))
        if stream is self._trial:
            self._try_next_suspect()

    async def _read(self, socket: zmq.asyncio.Socket, greeted: asyncio.Future[Hello], epoch: int) -> None:
        while True:
            payload = await socket.recv()
            try:
                message = self._decoder.decode(payload)
            except msgspec.DecodeError as error:
                logger.error("engine sent a message that does not decode", extra={"reason": str(error)})
                continue
            self.last_message_time = time.monotonic()
            if isinstance(message, Hello):
                if message.epoch == epoch and not greeted.done():
                    self.hello = self.limits = message
                    greeted.set_result(message)
                    self._resubmit()
                continue
            self._take(message)

    def _take(self, message: RequestOutputs) -> None:
        self.stats = message.stats
        for output in message.outputs:
            stream = self._live.get(output.request_id)
            if stream is not None:
                if output.finish_reason is not None:
                    del self._live[output.request_id]
                stream.put(output)
                if stream is self._trial:
                    self._try_next_suspect()
