"""Signals of a supervisor's process, handled in its asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handling(*, terminate: Callable[[], None], interrupt: Callable[[], None]) -> Iterator[None]:
    """SIGTERM calls `terminate`; Ctrl-C and a closed terminal call `interrupt`, for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: terminate, signal.SIGINT: interrupt, signal.SIGHUP: interrupt}
    # Who started us with a signal ignored (nohup, a shell's background job) meant it.
    handlers = {number: on for number, on in handlers.items() if signal.getsignal(number) is not signal.SIG_IGN}
    for number, on in handlers.items():
        loop.add_signal_handler(number, on)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
