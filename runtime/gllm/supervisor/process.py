"""One child process: started in a session of its own, watched, killed with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import msgspec

from gllm.config import Config
from gllm.supervisor.child import SUPERVISOR_PID_VARIABLE


def _module(name: str) -> tuple[str, ...]:
    # -P: the folder the user happens to be in must not shadow the modules of a child.
    return (sys.executable, "-P", "-m", name)


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """Command lines of the children; tests put their own in."""

    gateway: tuple[str, ...] = _module("gllm.gateway")
    engine: tuple[str, ...] = _module("gllm.engine")
    worker: tuple[str, ...] = _module("gllm.worker")


class Child:
    """A running (or ended) child process of this supervisor."""

    def __init__(self, role: str, process: asyncio.subprocess.Process) -> None:
        self.role = role
        self.pid = process.pid
        self._process = process
        self._verdict: str | None = None

    @classmethod
    async def spawn(
        cls, role: str, command: Sequence[str], config: Config, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start `command` with `config` in its environment; raises OSError if it cannot be started.

        Its stdout joins stderr: stdout belongs to whoever runs the command (`gllm generate` writes results there).
        """
        environment = {
            **os.environ,
            # A worker allocates few big blocks from a handful of threads: more malloc arenas only waste memory.
            "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
            **config.to_environment(),
            **(env or {}),
            SUPERVISOR_PID_VARIABLE: str(os.getpid()),
        }
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,
            # Ctrl-C in the terminal reaches only the supervisor, which decides in what order things end.
            start_new_session=True,
        )
        return cls(role, process)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def describe_exit(self) -> str:
        """One phrase that tells how it ended, such as `worker-0 was killed by SIGKILL`."""
        status = self.exit_status
        if self._verdict is not None:
            return f"{self.role} {self._verdict}"
        if status is None:
            return f"{self.role} is running"
        if status >= 0:
            return f"{self.role} exited with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"{self.role} was killed by {name}{hint}"

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started at once (SIGKILL to its session's process group)."""
        self.send(signal.SIGKILL)

    def condemn(self, verdict: str) -> None:
        """Kill it for a reason, which goes after its role: `was stopped by a signal, and killed`."""
        if self.exit_status is None:
            self._verdict = verdict
            self.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; SIGKILL goes to its whole session."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


async def end_all(children: Sequence[Child], timeout: float) -> None:
    """End every child: SIGTERM, then SIGKILL after `timeout` seconds (0: at once). Returns when all are reaped."""
    waits = [asyncio.ensure_future(child.wait()) for child in children]
    if not waits:
        return
    try:
        if timeout > 0:
            for child in children:
                child.terminate()
            await asyncio.wait(waits, timeout=timeout)
    finally:
        for child in children:
            child.kill()
    await asyncio.wait(waits)
