"""Signals that a supervisor handles, and children that a signal has stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gllm.supervisor.child_process import ChildProcess

_CHECK_SECONDS = 0.5


@contextlib.contextmanager
def handle_signals(*, terminate: Callable[[], None], interrupt: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, SIGTERM calls `terminate`; Ctrl-C and a closed terminal call `interrupt`."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: terminate, signal.SIGINT: interrupt, signal.SIGHUP: interrupt}
    # A signal that our parent made us ignore (nohup, a background job of a shell) stays ignored.
    handlers = {number: on for number, on in handlers.items() if signal.getsignal(number) is not signal.SIG_IGN}
    for number, on in handlers.items():
        loop.add_signal_handler(number, on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # The command line may have blocked SIGTERM until now.
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process. A process that a debugger holds (state t) does not count."""
    try:
        # The command in parentheses may contain a parenthesis.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


async def kill_stopped(children: Callable[[], Iterable[ChildProcess]]) -> None:
    """Check `children()` twice a second, until cancelled; kill a child that is stopped in two checks in a row.

    A stopped process (SIGSTOP) does not continue by itself: it counts as dead.
    """
    before: set[int] = set()
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        stopped = {child.pid for child in children() if child.exit_status is None and is_stopped(child.pid)}
        for child in children():
            if child.pid in stopped & before:
                child.kill("was stopped by a signal, and killed")
        before = stopped
