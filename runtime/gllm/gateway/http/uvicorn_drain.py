"""uvicorn's HTTP protocol while the server drains: connections end one by one, and no request on them is lost.

A client, or a proxy's pool, that keeps its connection does not see that a load balancer has removed this server. So a
request that arrives on such a connection is served, and its answer says `Connection: close`: the client opens its next
connection, and the load balancer chooses another server.

It depends on uvicorn's internals, so pyproject.toml has an upper bound for uvicorn.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gllm.gateway.http.uvicorn_bounds import BoundedProtocol

IDLE_SECONDS = 1.0
"""While the server drains, a connection without a request for this time is closed. A request may be on its way at that
moment, and would be lost; on a connection that was idle for long this is less likely than on a busy one, which closes
after its next answer."""
LATE = "gllm.late"
"""Set in the scope's state if the connection was opened when load balancers should have known of the drain."""


class DrainState:
    """What the connections of one server know of its drain."""

    begun = False
    late = False
    """Whether connections that are opened now are late."""


class DrainProtocol(BoundedProtocol):
    drain = DrainState()

    late = False
    _active_at = 0.0
    _receiving = False
    """Whether a request has begun to arrive and is not complete."""
    _last_cycle: RequestResponseCycle | None = None
    """The request whose answer closes the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._active_at = self.loop.time()
        if self.drain.late:
            self.late = True
            self.app_state = {**self.app_state, LATE: True}
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._active_at = self.loop.time()
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._receiving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.drain.begun:
            self.close_after_last()

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._active_at = self.loop.time()
        super().on_response_complete()

    def close_after_last(self) -> None:
        """Close the connection with the answer to the newest request. An answer that has begun keeps its headers.

        A pipelined request takes the place of the one before it, which would otherwise end the connection too early.
        """
        cycle, before = self.cycle, self._last_cycle
        if cycle is None or cycle.response_started or not cycle.keep_alive:
            return
        if before is not None and not before.response_started:
            before.keep_alive = True
        cycle.keep_alive = False
        self._last_cycle = cycle

    def close_if_idle(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self._receiving or self.transport.is_closing():
            return
        if self.loop.time() - self._active_at >= IDLE_SECONDS and not self._unread_input():
            self.transport.close()

    def _unread_input(self) -> int:
        """Return the bytes in the kernel's buffer (FIONREAD) that the event loop has not read yet."""
        connection = self.transport.get_extra_info("socket")
        return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.FIONREAD, b"\0" * 4), sys.byteorder)
