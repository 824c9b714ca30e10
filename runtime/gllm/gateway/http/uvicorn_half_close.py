"""uvicorn's HTTP protocol for clients that half-close their stream and wait, and for clients that send after the
response.

It depends on uvicorn's internals, so pyproject.toml has an upper bound for uvicorn.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gllm.gateway.http.answering import EVENT_STREAM

PROBE_DELAYS = (0.9, 1.0)
"""Seconds after a client's end of stream at which a probe is sent. A probe does not change the response: it is
`100 Continue` before the response, and an empty comment in a stream of events."""
MAX_DROPPED_BYTES = 32 * 1024 * 1024
DROP_TIMEOUT = 10.0
"""Bytes and seconds of a body that are still read, and dropped, after the response.

Closing at once would make a client that still sends lose the response; without a bound a client could send forever.
"""


class HalfCloseProtocol(HttpToolsProtocol):
    in_head = True
    """Whether the connection is between messages or in the head of one: no body is being received."""
    _ended_stream = False
    _dropped_bytes = 0
    _drop_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_dropping()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._drop_timer is not None:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > MAX_DROPPED_BYTES:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self.in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.in_head = True
        self._stop_dropping()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self._ended_stream:
            self.transport.close()
        elif not self.in_head:
            self._dropped_bytes = 0
            self._drop_timer = self.loop.call_later(DROP_TIMEOUT, self.transport.close)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio declares it
        """Return whether to keep the connection: a client may end its stream and still wait for the response.

        A client that closed its connection looks the same until bytes are sent to it. The first probe makes its machine
        report the closed connection; the second probe fails, and the request is aborted. A client of HTTP/1.0 is not
        probed, because it would read the probe as the response.
        """
        if not self.in_head or self.cycle is None or self.cycle.response_complete:
            return False
        self._ended_stream = True
        if self.scope["http_version"] == "1.1":
            for delay in PROBE_DELAYS:
                self.loop.call_later(delay, self._probe, self.cycle)
        return True

    def _probe(self, cycle: RequestResponseCycle) -> None:
        if self.transport.is_closing() or cycle.response_complete:
            return
        if not cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif cycle.scope["state"].get(EVENT_STREAM):
            self.transport.write(b"3\r\n:\n\n\r\n")

    def _stop_dropping(self) -> None:
        if self._drop_timer is not None:
            self._drop_timer.cancel()
            self._drop_timer = None
