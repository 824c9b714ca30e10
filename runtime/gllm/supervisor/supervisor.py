"""The process of `gllm serve`: one process group with its gateway, signals, and lines for the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TextIO

from gllm.config import Config
from gllm.supervisor.child_process import ChildProcess, Commands, end_all
from gllm.supervisor.group import EngineGroup
from gllm.supervisor.group_interface import EngineReady, GroupEvent, GroupFailed, Note, OtherNodes, Restarting
from gllm.supervisor.process_group import REPORT_GRACE_SECONDS
from gllm.supervisor.progress import LoadProgress, ProgressPrinter
from gllm.supervisor.ready_line import ready_line
from gllm.supervisor.restart import RestartConfig
from gllm.supervisor.signals import handle_signals, kill_stopped
from gllm.wire.curve import KEYS_VARIABLE, Keys
from gllm.wire.messages import Drain, EngineDown, EngineUp, Loading, ProcessStatus

_STOP_SECONDS = 2.0
"""Time that a process gets after SIGTERM before it is killed."""
_HURRY_SECONDS = 0.5
"""Time that the gateway gets after Ctrl-C or a failure, to end its clients' requests with an error."""
_DRAIN_GRACE_SECONDS = 5.0
"""Time that the gateway gets in addition to the drain timeout, to answer the last clients."""


class Supervisor:
    """Runs a process group and its gateway.

    The gateway survives the engine: when the engine or a worker exits, it keeps the requests, answers `/health`, and
    resubmits the requests to the engine of the next epoch. When the gateway itself exits, its connections are lost:
    gateway, engine and workers all start again.

    Signals: SIGTERM drains (exit status 0). SIGINT and SIGHUP stop without waiting for requests (0); a second one, or
    one during a drain, kills (130). A failure that ends the group prints one line and exits with 1.
    """

    def __init__(
        self,
        config: Config,
        *,
        restart: RestartConfig | None = None,
        commands: Commands | None = None,
        nodes: OtherNodes | None = None,
        keys: Keys | None = None,
        out: TextIO = sys.stdout,
        err: TextIO = sys.stderr,
    ) -> None:
        self._restart = restart or RestartConfig()
        self._commands = commands or Commands()
        self._out = out
        self._progress = ProgressPrinter(err)
        self._loading = LoadProgress(config.engine.world_size)
        self._group = EngineGroup(
            config, restart=self._restart, commands=self._commands, nodes=nodes, keys=keys, on_event=self._on_event
        )
        self._gateway: ChildProcess | None = None
        self._gateway_reported = False
        self._gateway_failure = ""
        self._served = False
        self._announced = False
        self._interrupted = False
        self._ending = asyncio.Event()
        self._failure: str | None = None
        self._drain_seconds = 0.0

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of each running process."""
        gateway = {"gateway": self._gateway.pid} if self._gateway and self._gateway.exit_status is None else {}
        return gateway | self._group.pids

    async def run(self) -> int:
        """Serve until a signal or a failure. Returns the exit status; all processes have exited by then."""
        with handle_signals(terminate=self._on_terminate, interrupt=self._on_interrupt):
            try:
                await self._group.start()
                gateway = asyncio.create_task(self._run_gateway())
                watcher = asyncio.create_task(kill_stopped(lambda: [self._gateway] if self._gateway else []))
                ending = asyncio.create_task(self._ending.wait())
                await asyncio.wait({gateway, ending}, return_when=asyncio.FIRST_COMPLETED)
                if gateway.done():
                    gateway.result()  # Raises an unexpected error; a normal return has called `_end` before.
                gateway.cancel()
                watcher.cancel()
            finally:
                # The gateway ends first, so that clients get its answer and not a broken connection.
                await self._end_gateway()
                await self._group.stop(_STOP_SECONDS)
        if self._failure is None:
            return 0
        self._progress.line(f"gllm: error: {self._failure}")
        return 1

    def _end(self, drain_seconds: float, failure: str | None = None) -> None:
        """Begin to end everything; the first call counts. Clients get `drain_seconds` for the rest of their answers."""
        if not self._ending.is_set():
            self._failure = failure
            self._drain_seconds = drain_seconds
            self._ending.set()

    # --- the gateway ---------------------------------------------------------------------------------

    async def _run_gateway(self) -> None:
        """Start the gateway; when it exits, start it again together with the engine."""
        failed_starts = 0
        while True:
            self._served = self._gateway_reported = False
            try:
                self._gateway = await ChildProcess.spawn(
                    "gateway", self._commands.gateway, self._group.config, {KEYS_VARIABLE: ""}
                )
            except OSError as error:
                self._end(0.0, f"cannot start the gateway: {error}")
                return
            if await self._gateway.wait() >= 0:
                await asyncio.sleep(REPORT_GRACE_SECONDS)
            failed_starts = 0 if self._served else failed_starts + 1
            reason = self._gateway_failure or self._gateway.describe_exit()
            if self._gateway_failure or not self._restart.enabled or failed_starts >= self._restart.max_failed_starts:
                self._end(0.0, reason)
                return
            self._group.bring_down(reason)
            await asyncio.sleep(self._restart.first_delay)

    async def _end_gateway(self) -> None:
        if self._gateway is None:
            return
        if self._served and self._drain_seconds > 0:
            self._group.send("gateway", Drain(self._drain_seconds))
            grace = min(self._drain_seconds, _DRAIN_GRACE_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gateway.wait(), self._drain_seconds + grace)
        await end_all([self._gateway], _STOP_SECONDS)

    # --- events ----------------------------------------------------------------------------------------

    def _on_event(self, event: GroupEvent) -> None:
        match event:
            case ProcessStatus(role="gateway"):
                self._on_gateway_status(event)
            case ProcessStatus():
                self._progress.status(event)
                if self._loading.update(event):
                    self._send_loading()
            case EngineUp() | EngineDown():
                self._loading.start()
                self._group.send("gateway", event)
            case EngineReady(epoch):
                if epoch > 0:
                    self._progress.line(f"gllm: serving again (epoch {epoch})")
            case Restarting(epoch, delay, reason):
                self._progress.line(f"gllm: {reason}; restarting in {delay:g} s (epoch {epoch})")
            case GroupFailed(reason):
                self._end(_HURRY_SECONDS, reason)
            case Note(text):
                self._progress.line(f"gllm: {text}")

    def _on_gateway_status(self, status: ProcessStatus) -> None:
        if not self._gateway_reported:
            self._gateway_reported = True
            if self._group.running:
                self._group.send("gateway", EngineUp(self._group.config.epoch))
                self._send_loading()
        if status.state == "failed":
            self._gateway_failure = status.detail or "the gateway failed"
        elif status.state == "ready" and not self._served:
            self._served = True
            if not self._announced:
                self._announced = True
                self._progress.clear()
                print(ready_line(self._group.config, status.detail), file=self._out, flush=True)

    def _send_loading(self) -> None:
        if self._loading.share is not None:
            self._group.send("gateway", Loading(self._loading.share))

    # --- signals -----------------------------------------------------------------------------------------

    def _on_terminate(self) -> None:
        drain_seconds = self._group.config.gateway.drain_seconds
        if self._served and not self._ending.is_set():
            self._progress.line(f"gllm: finishing running requests, {drain_seconds:g} s at most")
        self._end(drain_seconds)

    def _on_interrupt(self) -> None:
        if not self._interrupted:
            self._interrupted = True
            if not self._ending.is_set():
                self._end(_HURRY_SECONDS)
                return
        # A second Ctrl-C, or one during a drain: kill everything.
        self._progress.clear()
        if self._gateway is not None:
            self._gateway.kill()
        self._group.kill()
        os._exit(128 + signal.SIGINT)
