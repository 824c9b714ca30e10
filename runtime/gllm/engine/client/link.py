"""The client's connection to one engine, for asyncio: it greets the engine, submits, aborts, and reads outputs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from gllm.engine.client.stream import EngineError, OutputStream
from gllm.wire.curve import Keys, secure_client
from gllm.wire.messages import (
    Abort,
    CachedPages,
    Connect,
    EngineStats,
    EngineToGateway,
    GatewayToEngine,
    Hello,
    Leave,
    RequestOutputs,
)
from gllm.wire.pipeline_events import PipelineEvents, Watch
from gllm.wire.transport import configure_socket, decoder, detect_lost_peers, encode

logger = logging.getLogger("gllm.engine.client")

EventsHandler = Callable[[str, PipelineEvents, EngineStats], None]
"""Gets the name of an engine, events of its pipeline and its newest figures."""
_CONNECT_SECONDS = 0.1
MAX_SILENCE = 5.0
"""The engine sends a message each second. After this many seconds without one the link to a remote engine is lost."""
_CHECK_SECONDS = 0.25
_decoder = decoder(EngineToGateway)


class EngineLink:
    """A connection that ends once: an engine that comes back gets a new link, so messages of the two never mix.

    Only outputs of requests that were submitted here, and have not been taken back, reach their streams.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        *,
        epoch: int | None = None,
        keys: Keys | None = None,
        on_output: Callable[[OutputStream, bool], None] = lambda stream, ended: None,
        on_events: Callable[[PipelineEvents, EngineStats], None] = lambda events, stats: None,
    ) -> None:
        """epoch: of the engine that is expected; None: any. keys: for an address of another machine.

        on_output(stream, ended) is called after each output of a stream. on_events gets what `watch`
        asks for, and the newest figures.
        """
        self.address = address
        self.hello: Hello | None = None
        """None until the engine serves."""
        self.stats = EngineStats()
        self.stats_time = 0.0
        """time.monotonic() when `stats` arrived."""
        self.last_message_time = time.monotonic()
        """time.monotonic() of the engine's last message."""
        self.unseen_tokens = 0
        """Prompt tokens to compute that were submitted after the engine made `stats`; see `RemoteEngines`."""
        self.pages: set[bytes] = set()
        """Digests of the KV pages in the engine's prefix cache."""
        self.sent: dict[str, OutputStream] = {}
        """Requests that the engine has, by their ids on the wire."""
        self._epoch = epoch
        self._on_output = on_output
        self._on_events = on_events
        self._ids: dict[OutputStream, str] = {}
        self._socket = context.socket(zmq.DEALER)
        configure_socket(self._socket)
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._greeted: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._tasks = []
        if keys is not None:
            secure_client(self._socket, keys)
            detect_lost_peers(self._socket)
            self._socket.reconnect_ivl = -1
            self._tasks.append(asyncio.create_task(self._watch(context)))
        self._socket.connect(address)
        self._tasks.append(asyncio.create_task(self._read()))

    async def greet(self, timeout: float) -> Hello:
        """Wait until the engine serves. Raises EngineError after `timeout` seconds, or when the link ends."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not self._lost.done():
                self._send(Connect())
                await asyncio.wait(
                    (self._greeted, self._lost),
                    timeout=min(_CONNECT_SECONDS, timeout),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if self._greeted.done():
                return self._greeted.result()
            if self._lost.done():
                raise EngineError(self._lost.result())
        raise EngineError(f"the engine was not ready within {timeout:g} seconds")

    async def lost(self) -> str:
        """Wait until the connection ends or the engine is silent. Returns the reason."""
        previous = time.monotonic()
        while True:
            await asyncio.wait((self._lost,), timeout=_CHECK_SECONDS)
            if self._lost.done():
                return self._lost.result()
            now = time.monotonic()
            if now - previous > 4 * _CHECK_SECONDS:
                self.last_message_time = now  # This process itself was stopped: messages of that time are unread.
            previous = now
            if now - self.last_message_time > MAX_SILENCE:
                return f"the engine was silent for {now - self.last_message_time:.1f} s"

    def submit(self, stream: OutputStream) -> None:
        message = stream.record.to_submit()
        self.sent[message.request_id] = stream
        self._ids[stream] = message.request_id
        self._send(message)

    def abort(self, stream: OutputStream) -> None:
        """Take a request back, if the engine has it."""
        request_id = self._ids.pop(stream, None)
        if request_id is not None:
            del self.sent[request_id]
            self._send(Abort([request_id]))

    def leave(self) -> None:
        self._send(Leave())

    def watch(self, seconds: float) -> None:
        """Ask for events of the pipeline for some time."""
        self._send(Watch(seconds))

    def close(self, reason: str = "the connection to the engine was closed") -> None:
        self._end(reason)
        for task in self._tasks:
            task.cancel()
        self._socket.close(linger=0)

    async def closed(self) -> None:
        """Wait until nothing of a link that is closed runs any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    def _send(self, message: GatewayToEngine) -> None:
        if not self._socket.closed:
            self._socket.send(encode(message))

    async def _read(self) -> None:
        while True:
            payload = await self._socket.recv()
            try:
                message = _decoder.decode(payload)
            except msgspec.DecodeError as error:
                logger.error("engine sent a message that does not decode", extra={"reason": str(error)})
                if not self._greeted.done():
                    self._end(f"its first message does not decode; is its version different? ({error})")
                continue
            self.last_message_time = time.monotonic()
            match message:
                case Hello() if self._epoch in (None, message.epoch):
                    self.hello = message
                    if not self._greeted.done():
                        self._greeted.set_result(message)
                case RequestOutputs():
                    self._take(message)
                case PipelineEvents():
                    self._on_events(message, self.stats)
                case CachedPages(added=added, removed=removed, whole=whole):
                    if whole:
                        self.pages.clear()
                    self.pages.difference_update(removed)
                    self.pages.update(added)

    def _take(self, message: RequestOutputs) -> None:
        self.stats = message.stats
        self.stats_time = self.last_message_time
        self.unseen_tokens = 0
        for output in message.outputs:
            stream = self.sent.get(output.request_id)
            if stream is None:
                continue
            ended = output.finish_reason is not None
            if ended:
                del self.sent[output.request_id], self._ids[stream]
            stream.put(output)
            self._on_output(stream, ended)

    async def _watch(self, context: zmq.asyncio.Context) -> None:
        """End the link with its connection."""
        address = f"inproc://engine-{id(self)}"
        self._socket.monitor(address, zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        monitor = context.socket(zmq.PAIR)
        try:
            monitor.connect(address)
            event = parse_monitor_message(await monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._end("it does not know this gateway's keys: give both the same --keys-file")
            else:
                self._end("the connection to the engine closed")
        finally:
            monitor.close(linger=0)
