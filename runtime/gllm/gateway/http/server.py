"""The listening socket, and uvicorn's server with the gateway's limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from gllm.gateway.http.connections import RefusalLog, connection_limit
from gllm.gateway.http.uvicorn_drain import DrainProtocol, DrainState

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
_DRAIN_INTERVAL = 0.05
"""Seconds between checks for idle connections during a drain."""


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
        self._drain_state = DrainState()
        bounds = {"max_connections": limit, "refusals": self.refusals, "drain": self._drain_state}
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (DrainProtocol,), bounds),
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

    async def drain(self, delay: float) -> None:
        """Let each connection end after its next answer, or when it is idle; requests on it are still served.

        Connections opened within `delay` seconds are served too; later ones are late (`LATE`). Returns when all but
        late connections are closed.
        """
        state = self._drain_state
        state.begun = True
        late_at = time.monotonic() + delay
        for connection in self._connections():
            connection.close_after_last()
        while True:
            state.late = state.late or time.monotonic() >= late_at
            connections = self._connections()
            for connection in connections:
                connection.close_if_idle()
            if state.late and all(one.late or one.transport.is_closing() for one in connections):
                return
            await asyncio.sleep(_DRAIN_INTERVAL)

    def _connections(self) -> list[DrainProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, DrainProtocol)]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
