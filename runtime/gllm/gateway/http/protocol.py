"""uvicorn's HTTP protocol with what it lacks: bounds on a request's head in bytes and time, OpenAI's errors."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gllm.gateway.errors import ApiError

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 30.0
"""Seconds a client may take to send a request line and its headers."""


class BoundedProtocol(HttpToolsProtocol):
    """httptools keeps an unfinished header in memory however long it grows; here the connection ends instead.

    The bound is checked after each read of the socket, so one read (at most 256 KiB) may go beyond it.
    """

    _head_bytes = 0
    _in_head = True
    _ended_message = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._ended_message = False
        super().data_received(data)
        # After the end of a message these bytes were (mostly) its own; the next head is counted from the next read.
        if self._in_head and not self._ended_message and not self.transport.is_closing():
            self._head_bytes += len(data)
            self._watch_head()
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(ApiError(431, f"The request's headers exceed {MAX_HEAD_BYTES} bytes.",
                                      code="headers_too_large"))  # fmt: skip

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._unwatch_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._ended_message = True

    def send_400_response(self, msg: str) -> None:
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
