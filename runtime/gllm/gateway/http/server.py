"""The listening socket, and uvicorn's server with the gateway's limits."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from gllm.gateway.http.connections import RefusalLog, connection_limit
from gllm.gateway.http.uvicorn_bounds import BoundedProtocol

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the 60 s after which usual proxies and client pools drop theirs."""
BACKLOG = 2048
"""Connections that wait in the kernel to be accepted."""
ACCEPT_BATCH = 4
"""Connections that asyncio accepts in a row, before any of them is counted; it takes this number from the backlog. A
connection beyond the limit is closed four turns of the event loop later, so four batches must fit into
RESERVED_DESCRIPTORS."""
FLUSH_TIMEOUT = 5
"""Seconds for the last bytes of responses after a drain."""


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises OSError, whose text is one line for the user."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a name"
        raise OSError(f"--host {host} is not an address of this machine: {why}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; choose another --port"
        ) from error
    listener.setblocking(False)
    return listener


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: HttpProcess handles SIGTERM and drains."""

    def __init__(self, app: ASGIApp) -> None:
        limit = connection_limit()
        self.refusals = RefusalLog()
        bounds = {"max_connections": limit, "refusals": self.refusals}
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (BoundedProtocol,), bounds),
                backlog=min(ACCEPT_BATCH, limit),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=FLUSH_TIMEOUT,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio has called listen() with the small backlog; this sets the real length of the kernel's queue.
        for listener in sockets or ():
            listener.listen(BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
