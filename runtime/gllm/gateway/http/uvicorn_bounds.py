"""uvicorn's HTTP protocol with bounds on connections, on a request's head and on stalled responses.

It depends on uvicorn's internals, so pyproject.toml has an upper bound for uvicorn."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gllm.gateway.http.connections import MAX_CONNECTIONS, RefusalLog
from gllm.gateway.http.uvicorn_half_close import HalfCloseProtocol
from gllm.gateway.protocol.errors import ApiError, unavailable

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 30.0
"""Seconds a client may take to send a request line and its headers."""
STALL_TIMEOUT = 60.0
"""A client that reads nothing of a waiting response for this many seconds is disconnected."""


class BoundedProtocol(HalfCloseProtocol):
    """Refuses a head that is too long or too slow, and a connection beyond the limit.

    Aborts a response that is not read.

    httptools keeps an unfinished header in memory, however long it is. The bound is checked after each read of the
    socket, so one read (at most 256 KiB) may exceed it. A client that does not read holds its request's place in the
    queue.
    """

    max_connections = MAX_CONNECTIONS
    refusals = RefusalLog()

    _head_bytes = 0
    _ended_message = False
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.refusals.refused(f"{self.max_connections} connections are open")
            self._refuse(unavailable("The server has too many connections.", "too_many_connections"))
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        self._unwatch_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_stall()

    def resume_writing(self) -> None:
        self._unwatch_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._ended_message = False
        super().data_received(data)
        # Bytes with the end of a message belong (mostly) to that message; the next read counts for the next head.
        if self.in_head and not self._ended_message and not self.transport.is_closing():
            self._head_bytes += len(data)
            self._watch_head()
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    ApiError(431, f"The request's headers exceed {MAX_HEAD_BYTES} bytes.", code="headers_too_large")
                )

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._unwatch_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._ended_message = True

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: the request is answered as if it had not asked for an upgrade."""

    def send_400_response(self, msg: str) -> None:
        logger.debug("malformed request", extra={"client": self.client})
        self._refuse(ApiError(400, msg, code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        body = error.body()
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[error.status],
                    b"content-type: application/json\r\nconnection: close\r\ncontent-length: ",
                    b"%d\r\n\r\n" % len(body),
                    body,
                )
            )
        )
        self.transport.close()

    def _watch_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def _unwatch_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch_stall(self) -> None:
        self._stall_timer = self.loop.call_later(STALL_TIMEOUT, self._check_stall, self._unread())

    def _unwatch_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _check_stall(self, unread: int) -> None:
        """unread: the value of `_unread` STALL_TIMEOUT seconds ago. The value only shrinks while writing is paused."""
        if self._unread() < unread:
            self._watch_stall()
        else:
            self.transport.abort()

    def _unread(self) -> int:
        """Return the bytes that the client has not received: in the transport's buffer and in the kernel's (TIOCOUTQ).

        The kernel's buffer may have megabytes, and the transport may write again only when a third of it is free.
        """
        queued = self.transport.get_extra_info("socket")
        kernel = fcntl.ioctl(queued.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return self.transport.get_write_buffer_size() + int.from_bytes(kernel, sys.byteorder)


def _is_no_client_mistake(record: logging.LogRecord) -> bool:
    """Drop the warning for each malformed request: without a key, any client could fill the log with it."""
    return record.msg != "Invalid HTTP request received."


logging.getLogger("uvicorn.error").addFilter(_is_no_client_mistake)
