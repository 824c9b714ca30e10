"""Starts the processes of one group, restarts and probes them like a kubelet, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import aiohttp

from gllm_operator.local.pod_processes import PodProcess

_READY_TIMEOUT = aiohttp.ClientTimeout(total=2)
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "TERM")
"""Variables that a process inherits. A container has them from its image."""


class LocalPod:
    """A process that is restarted when it ends, with a growing delay."""

    def __init__(self, spec: PodProcess, on_change: Callable[[LocalPod], None]) -> None:
        self.spec = spec
        self.state = "Pending"
        self.restarts = 0
        self.last_line = ""
        self.since = time.monotonic()
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False

    async def run(self) -> None:
        delay = 1.0
        while not self._ending:
            started = time.monotonic()
            status = await self._run_once()
            if self._ending:
                break
            self._set("Waiting", f"{self.last_line} [exit status {status}, restarts in {delay:g} s]")
            await asyncio.sleep(delay)
            delay = 1.0 if time.monotonic() - started > 60 else min(delay * 2, 30.0)
            self.restarts += 1
        self._set("Ended")

    async def _run_once(self) -> int:
        env = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(self.spec.env)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gllm",
            *self.spec.arguments,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._set("Running")
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            if text:
                self.last_line = text
                if self.spec.role == "slave" and "joined the master" in text:
                    self.state = "Joined"
                self._on_change(self)
        return await self._process.wait()

    async def probe(self, session: aiohttp.ClientSession) -> None:
        """Run the rendered readiness probe."""
        if self.spec.ready_path and self.state in ("Running", "Ready"):
            ready = False
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.get(self.spec.url + self.spec.ready_path) as answer:
                    ready = answer.status == 200
            if ready != (self.state == "Ready"):
                self._set("Ready" if ready else "Running")

    def terminate(self) -> None:
        """Send SIGTERM, which drains."""
        self._ending = True
        self._signal(signal.SIGTERM)
        if self.state != "Ended":
            self._set("Draining")

    def kill(self) -> None:
        self._ending = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def _set(self, state: str, line: str = "") -> None:
        self.state, self.since = state, time.monotonic()
        self.last_line = line or self.last_line
        self._on_change(self)


async def run_group(
    specs: Sequence[PodProcess],
    on_change: Callable[[Sequence[LocalPod]], None],
    *,
    one_shot: asyncio.Event | None = None,
) -> int:
    """Run until a signal: the first one drains, the second one kills. Setting `one_shot`, for tests, drains too."""
    pods: list[LocalPod] = []
    pods += [LocalPod(spec, lambda pod: on_change(pods)) for spec in specs]
    stop = one_shot or asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def interrupted() -> None:
        if stop.is_set():
            for pod in pods:
                pod.kill()
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    tasks = [asyncio.create_task(pod.run()) for pod in pods]
    stopping = asyncio.create_task(stop.wait())
    async with aiohttp.ClientSession(timeout=_READY_TIMEOUT) as session:
        while not stopping.done():
            await asyncio.wait({stopping}, timeout=1.0)
            await asyncio.gather(*(pod.probe(session) for pod in pods))
    for pod in pods:
        pod.terminate()
    await asyncio.gather(*tasks)
    on_change(pods)
    return 0
