"""The limit of connections. It is below the limit of file descriptors, so that some are left for the engine."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import time
from typing import Any

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 32_768
"""Upper bound of the limit, because each connection also takes memory."""
RESERVED_DESCRIPTORS = 32
"""Descriptors for refused connections and for later needs: sockets to an engine, files, the grammar checker's pipes."""
MIN_CONNECTIONS = 4
_LOG_INTERVAL = 1.0


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of open files to the hard limit.

    Shells and container runtimes often leave 1024, for programs that use select(); nothing here uses it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            logger.warning("cannot raise the limit of open files", extra={"limit": soft, "reason": str(error)})


def connection_limit() -> int:
    """Return the number of connections that fit beside the descriptors that are open now."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    free = limit - len(os.listdir("/proc/self/fd")) - RESERVED_DESCRIPTORS
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, free))


class RefusalLog:
    """Logs at most one line per second about refused connections."""

    def __init__(self) -> None:
        self._count = 0
        self._last = -_LOG_INTERVAL

    def refused(self, reason: str) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._last >= _LOG_INTERVAL:
            logger.warning("connections refused", extra={"count": self._count, "reason": reason})
            self._last = now
            self._count = 0

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an event loop's exception. asyncio would log a traceback for each accept() without a descriptor."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE) and "socket" in context:
            self.refused(error.strerror or str(error))
        else:
            loop.default_exception_handler(context)
