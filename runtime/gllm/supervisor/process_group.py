"""This node's engine and workers of one epoch: started together, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from gllm.config import Config
from gllm.supervisor.child_process import ChildProcess, end_all

REPORT_GRACE_SECONDS = 0.25
"""Time to wait for the report of a child that has exited: a child that fails reports the reason, then exits."""


class ProcessGroup:
    """Calls `on_exit(reason)` when the first process exits; the others run until `end`."""

    def __init__(self, on_exit: Callable[[str], None]) -> None:
        self.children: list[ChildProcess] = []
        self._on_exit = on_exit
        self._exit_expected = asyncio.Event()
        self._watches: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of each running process."""
        return {child.role: child.pid for child in self.children if child.exit_status is None}

    async def spawn(
        self, role: str, command: Sequence[str], config: Config, env: Mapping[str, str] | None = None
    ) -> None:
        """Start one process. Raises OSError."""
        child = await ChildProcess.spawn(role, command, config, env)
        self.children.append(child)
        self._watches.append(asyncio.create_task(self._watch(child)))

    def expect_exit(self) -> None:
        """Do not report later exits: the reason why the processes end is known already."""
        self._exit_expected.set()

    def kill(self) -> None:
        """Send SIGKILL to all, without waiting."""
        for child in self.children:
            child.kill()

    async def end(self, timeout: float = 0.0) -> None:
        """Send SIGTERM to all, and SIGKILL after `timeout` seconds (0: at once). Returns when all have exited."""
        self.expect_exit()
        for watch in self._watches:
            watch.cancel()
        await end_all(self.children, timeout)

    async def _watch(self, child: ChildProcess) -> None:
        if await child.wait() >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exit_expected.wait(), REPORT_GRACE_SECONDS)
        if not self._exit_expected.is_set():
            self._exit_expected.set()
            self._on_exit(child.describe_exit())
