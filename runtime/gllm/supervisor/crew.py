"""The processes of one epoch on this node: started together, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from gllm.config import Config
from gllm.supervisor.process import Child, end_all

LAST_WORDS_SECONDS = 0.25
"""A child that fails reports why and exits: how long its report may come in after its exit was seen."""


class Crew:
    """When one process ends, `on_lost` is told why, once; the others live until `end`."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self.children: list[Child] = []
        self._on_lost = on_lost
        self._known = asyncio.Event()
        self._watches: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of what runs now."""
        return {child.role: child.pid for child in self.children if child.exit_status is None}

    async def spawn(
        self, role: str, command: Sequence[str], config: Config, env: Mapping[str, str] | None = None
    ) -> None:
        """Start one process; raises OSError if it cannot be started."""
        child = await Child.spawn(role, command, config, env)
        self.children.append(child)
        self._watches.append(asyncio.create_task(self._watch(child)))

    def explain(self) -> None:
        """Why this crew is lost is known already: exits that follow are no news."""
        self._known.set()

    def kill(self) -> None:
        """SIGKILL to all, without waiting."""
        for child in self.children:
            child.kill()

    async def end(self, timeout: float = 0.0) -> None:
        """End every process: SIGTERM, then SIGKILL after `timeout` seconds (0: at once); returns when all are gone."""
        self.explain()
        for watch in self._watches:
            watch.cancel()
        await end_all(self.children, timeout)

    async def _watch(self, child: Child) -> None:
        if await child.wait() >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), LAST_WORDS_SECONDS)
        if not self._known.is_set():
            self._known.set()
            self._on_lost(child.describe_exit())
