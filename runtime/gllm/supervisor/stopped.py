"""A process that was stopped (SIGSTOP) will not come back by itself: it counts as dead, and is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from gllm.supervisor.process import Child

_INTERVAL = 0.5


def is_stopped(pid: int) -> bool:
    """Whether the kernel holds the process. One under a debugger (state t) is none of our business."""
    try:
        # The command in parentheses may hold anything, a parenthesis too.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


async def kill_stopped(children: Callable[[], Iterable[Child]]) -> None:
    """Look at all `children()` twice a second, until cancelled; one that is found stopped twice in a row is killed."""
    before: set[int] = set()
    while True:
        await asyncio.sleep(_INTERVAL)
        stopped = {child.pid for child in children() if child.exit_status is None and is_stopped(child.pid)}
        for child in children():
            if child.pid in stopped & before:
                child.condemn("was stopped by a signal, and killed")
        before = stopped
