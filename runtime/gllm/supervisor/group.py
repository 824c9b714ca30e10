"""A process group without its gateway: the engine and its workers, started, watched and restarted together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from gllm.config import Config
from gllm.supervisor.child_process import Commands
from gllm.supervisor.control import ControlServer, make_run_dir
from gllm.supervisor.group_interface import (
    EngineReady,
    GroupError,
    GroupEvent,
    GroupFailed,
    Note,
    OtherNodes,
    Restarting,
)
from gllm.supervisor.nodes.addresses import interface_of
from gllm.supervisor.nodes.placement import local_ranks, rendezvous_of, worker_config, worker_environment
from gllm.supervisor.process_group import ProcessGroup
from gllm.supervisor.restart import RestartConfig, RestartPolicy
from gllm.supervisor.signals import kill_stopped
from gllm.supervisor.stacks import log_stacks
from gllm.wire.curve import KEYS_VARIABLE, Keys
from gllm.wire.messages import EngineDown, EngineUp, ProcessStatus, SupervisorToProcess

_log = logging.getLogger(__name__)

_FIRST_CAUSE_SECONDS = 0.1
"""Time from a report of a failure to the end of the epoch. When a process is killed, others may report their broken
connections before its exit is seen; the exit explains these reports and takes precedence."""


class EngineGroup:
    """Runs one engine and its workers as one unit: when a process exits, the others are killed and all start again.

    Each start is an epoch; its number is in the config of the processes and in the names of their sockets.
    Call all methods in one asyncio loop, in any thread. `on_event` is called in that loop and must not block.

        group = EngineGroup(config, restart=RestartConfig(enabled=False), on_event=print)
        await group.start()
        await group.wait_ready()
        ... EngineClient(group.config) ...
        await group.stop()
    """

    def __init__(
        self,
        config: Config,
        *,
        restart: RestartConfig | None = None,
        commands: Commands | None = None,
        nodes: OtherNodes | None = None,
        keys: Keys | None = None,
        on_event: Callable[[GroupEvent], None] = lambda event: None,
    ) -> None:
        """nodes: the other nodes, if the group has several. keys: for gateways of other machines."""
        self.config = config
        """The config of the current epoch; `run_dir` is set after `start`."""
        self.failure: str | None = None
        """Why the group ended and does not restart."""
        self._restart = RestartPolicy(restart or RestartConfig())
        self._commands = commands or Commands()
        self._nodes = nodes
        self._keys = keys
        self._on_event = on_event
        self._processes = ProcessGroup(self.bring_down)
        self._control: ControlServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._start_finished = asyncio.Event()
        self._down = asyncio.Event()
        self._down_reason = ""
        self._running = False
        self._explained = False
        self._hung = False
        """Whether the epoch ends because its processes run but make no progress."""
        self._last_reason = ""
        self._deadline_passed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of each running process on this node."""
        return self._processes.pids

    @property
    def running(self) -> bool:
        """Whether an engine of the current epoch is starting or serving."""
        return self._running

    async def start(self) -> None:
        """Make the run_dir and start the first epoch, without waiting for it."""
        assert not self.config.run_dir, "a group starts once"
        self.config = msgspec.structs.replace(self.config, run_dir=str(make_run_dir()))
        self._control = ControlServer(self.config, self.on_status)
        self._tasks = [
            asyncio.create_task(self._control.receive()),
            asyncio.create_task(self._supervise()),
            asyncio.create_task(kill_stopped(lambda: self._processes.children)),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    async def wait_ready(self) -> None:
        """Wait until the engine first serves. Raises GroupError if the group has failed."""
        await self._start_finished.wait()
        if self.failure is not None:
            raise GroupError(self.failure)

    def send(self, role: str, message: SupervisorToProcess) -> None:
        """Send a control message to the process of that role; the supervisor's gateway is one of them."""
        if self._control is not None:
            self._control.send(role, message)

    def bring_down(self, reason: str) -> None:
        """End the current epoch as if one of its processes had exited; the restart policy decides what follows."""
        if not self._down.is_set():
            self._down_reason = reason
            self._down.set()
            self._processes.expect_exit()

    def note(self, text: str) -> None:
        self._on_event(Note(text))

    def kill(self) -> None:
        """Send SIGKILL to all processes, without waiting; for a second Ctrl-C."""
        self._processes.kill()
        self._remove_run_dir()

    async def stop(self, timeout: float = 5.0) -> None:
        """End all processes (SIGTERM, SIGKILL after `timeout` seconds) and remove the run_dir. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._set_timer(0.0)
        self._running = False
        await self._processes.end(timeout)
        if self._nodes is not None:
            await self._nodes.close(self.failure or "")
        if self._control is not None:
            self._control.close()
            self._control = None
        self._remove_run_dir()
        if self.failure is None:
            self.failure = "the engine was stopped"
        self._start_finished.set()

    def _remove_run_dir(self) -> None:
        if self.config.run_dir:
            shutil.rmtree(Path(self.config.run_dir), ignore_errors=True)

    # --- epochs ----------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run epochs until the restart policy ends the group."""
        if self._nodes is not None:
            try:
                self.config = await self._nodes.open(self.config, self)
            except (OSError, ValueError) as error:
                self._fail(str(error))
                return
        while True:
            reason = self._last_reason = await self._run_epoch()
            final = self._restart.on_exit(reason, explained=self._explained)
            await self._end_epoch(reason, final)
            if final is None:
                self._set_timer(self._restart.seconds_left)
                delay = self._restart.next_delay()
                self._on_event(Restarting(self.config.epoch + 1, delay, reason))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._deadline_passed.wait(), delay)
                final = self._restart.on_deadline(reason)
                if final is not None:
                    self._on_event(EngineDown(self.config.epoch, final))
            if final is not None:
                self._fail(final)
                return
            self.config = msgspec.structs.replace(self.config, epoch=self.config.epoch + 1)

    async def _run_epoch(self) -> str:
        """Start all processes and wait. Returns why the epoch ended; its processes may still run."""
        self._down = asyncio.Event()
        self._down_reason = ""
        self._explained = self._hung = False
        self._processes = ProcessGroup(self.bring_down)
        try:
            await self._wait_for_nodes()
            if not self._down.is_set():
                self._running = True
                await self._spawn()
                self._on_event(EngineUp(self.config.epoch))
            await self._down.wait()
        except OSError as error:
            self._explained = True
            return f"cannot start a process: {error}"
        return self._down_reason

    async def _wait_for_nodes(self) -> None:
        """Wait until all nodes have joined, or until something ends the epoch."""
        if self._nodes is None:
            return
        deadline = None if self._restart.has_served else self.config.nodes.join_timeout
        complete = asyncio.create_task(self._nodes.complete(deadline))
        down = asyncio.create_task(self._down.wait())
        try:
            await asyncio.wait({complete, down}, return_when=asyncio.FIRST_COMPLETED)
            if complete.done():
                complete.result()
        except TimeoutError as error:
            self._explained = True
            self.bring_down(str(error))
        finally:
            complete.cancel()
            down.cancel()

    async def _spawn(self) -> None:
        config = self.config
        secrets = {KEYS_VARIABLE: ""} if self._nodes is None else self._nodes.environment()
        keys = secrets if self._keys is None else {KEYS_VARIABLE: self._keys.text()}
        await self._processes.spawn("engine", self._commands.engine, config, keys)
        rendezvous, interface = rendezvous_of(config), interface_of(config.nodes.node_addr)
        for rank in local_ranks(config):
            environment = worker_environment(config, rank, rendezvous, interface)
            await self._processes.spawn(
                f"worker-{rank}", self._commands.worker, worker_config(config), environment | secrets
            )
        if self._nodes is not None:
            self._nodes.start_epoch(config.epoch)

    async def _end_epoch(self, reason: str, final: str | None) -> None:
        """Report the end first, so that clients do not wait for the processes to exit."""
        self._running = False
        self._on_event(EngineDown(self.config.epoch, final or reason, self._restart.seconds_left if not final else 0.0))
        if self._nodes is not None:
            self._nodes.stop_epoch(self.config.epoch, reason, hung=self._hung)
        if self._hung:
            await log_stacks(self._processes.children, self.config)
        await self._processes.end()

    def _set_timer(self, seconds: float) -> None:
        """End the group if it does not serve within `seconds`; 0: no limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds + 0.01, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline_passed.set()
        self._hung = self._running
        self.bring_down(self._last_reason)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._start_finished.set()
        self._on_event(GroupFailed(reason))

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Make an error of the supervisor itself the group's failure: otherwise all others would wait forever."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the supervisor failed", exc_info=error)
            self.kill()
            self._fail(f"the supervisor failed: {error!r}")

    def on_status(self, status: ProcessStatus) -> None:
        """Handle a report of the gateway, or of an engine or worker of this epoch on any node."""
        if status.role == "gateway":
            self._on_event(status)
            return
        if not self._running or status.epoch != self.config.epoch:
            return  # A late report of an earlier epoch.
        self._on_event(status)
        if status.state in ("failed", "hung"):
            asyncio.get_running_loop().call_later(_FIRST_CAUSE_SECONDS, self._on_failed, self._down, status)
        elif status.role == "engine" and status.state == "ready" and not self._restart.serving:
            self._restart.on_ready()
            self._set_timer(0.0)
            self._start_finished.set()
            self._on_event(EngineReady(status.epoch))

    def _on_failed(self, down: asyncio.Event, status: ProcessStatus) -> None:
        """End the epoch of `down`, in which a process reported its failure, unless an exit has ended it meanwhile."""
        if down is self._down and not down.is_set():
            self._explained = True
            self._hung = status.state == "hung"
            self.bring_down(status.detail or f"{status.role} failed")
