"""One child process: started in its own session, watched, and killed together with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import msgspec

from gllm.config import Config
from gllm.supervisor.link import SUPERVISOR_PID_VARIABLE


def _module(name: str) -> tuple[str, ...]:
    # -P: files in the current folder must not shadow the modules of a child.
    return (sys.executable, "-P", "-m", name)


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """Command lines of the children; tests replace them."""

    gateway: tuple[str, ...] = _module("gllm.gateway")
    engine: tuple[str, ...] = _module("gllm.engine")
    worker: tuple[str, ...] = _module("gllm.worker")


class ChildProcess:
    """A running (or ended) child process of this supervisor."""

    def __init__(self, role: str, process: asyncio.subprocess.Process) -> None:
        self.role = role
        self.pid = process.pid
        self._process = process
        self._kill_reason = ""

    @classmethod
    async def spawn(
        cls, role: str, command: Sequence[str], config: Config, env: Mapping[str, str] | None = None
    ) -> ChildProcess:
        """Start `command` with `config` in its environment. Raises OSError.

        Its stdout goes to stderr: stdout belongs to the user's command (`gllm generate` writes results there).
        """
        environment = {
            **os.environ,
            # A worker has few threads, and they allocate a few big blocks: more malloc arenas would only waste memory.
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
            # Ctrl-C in the terminal reaches only the supervisor, which ends the processes in order.
            start_new_session=True,
        )
        return cls(role, process)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: minus the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def describe_exit(self) -> str:
        """Describe in one phrase how the process ended, such as `worker-0 was killed by SIGKILL`."""
        status = self.exit_status
        if self._kill_reason:
            return f"{self.role} {self._kill_reason}"
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
        """Ask the process to end (SIGTERM)."""
        self.send(signal.SIGTERM)

    def kill(self, reason: str = "") -> None:
        """Send SIGKILL to the process and to the processes that it started.

        `describe_exit` puts the reason after the role: `was stopped by a signal, and killed`.
        """
        if self.exit_status is None:
            self._kill_reason = reason or self._kill_reason
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process. SIGKILL goes to its whole Unix process group."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


async def end_all(children: Sequence[ChildProcess], timeout: float) -> None:
    """Send SIGTERM to all, and SIGKILL after `timeout` seconds (0: at once). Returns when all have exited."""
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
