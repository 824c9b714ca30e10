"""One serving group without its HTTP side: an engine and its workers, started, watched and restarted together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from gllm.config import Config
from gllm.supervisor.control import ControlServer
from gllm.supervisor.crew import Crew
from gllm.supervisor.events import EngineReady, GroupError, GroupEvent, GroupFailed, Note, Restarting
from gllm.supervisor.nodes.addresses import interface_of
from gllm.supervisor.nodes.interfaces import OtherNodes
from gllm.supervisor.nodes.placement import local_ranks, rendezvous, worker_config, worker_environment
from gllm.supervisor.process import Commands
from gllm.supervisor.restart import Recovery, RestartPolicy
from gllm.supervisor.run_dir import make_run_dir
from gllm.supervisor.stacks import log_stacks
from gllm.supervisor.stopped import kill_stopped
from gllm.wire.curve import KEYS_VARIABLE
from gllm.wire.messages import EngineDown, EngineUp, ProcessStatus, SupervisorToProcess

__all__ = [
    "EngineGroup",
    "EngineReady",
    "GroupError",
    "GroupEvent",
    "GroupFailed",
    "Note",
    "RestartPolicy",
    "Restarting",
]  # fmt: skip

_log = logging.getLogger(__name__)

_FIRST_CAUSE_SECONDS = 0.1
"""When a process is killed the others fail over their broken connections, and may be heard first: how long to wait
for the exit that explains theirs."""


class EngineGroup:
    """Keeps one engine and its workers alive, as one: when one process dies the others are killed and all start anew.

    Every start is an epoch, whose number is in the config of the processes and in the names of their sockets.
    All methods belong to one running asyncio loop (any thread's); `on_event` is called in it and must not block.

        group = EngineGroup(config, restart=RestartPolicy(enabled=False), on_event=print)
        await group.start()
        await group.wait_ready()
        ... EngineClient(group.config) ...
        await group.stop()
    """

    def __init__(
        self,
        config: Config,
        *,
        restart: RestartPolicy | None = None,
        commands: Commands | None = None,
        nodes: OtherNodes | None = None,
        on_event: Callable[[GroupEvent], None] = lambda event: None,
    ) -> None:
        """nodes: the other nodes of a group that has some."""
        self.config = config
        """Of the current epoch; with `run_dir` set once started."""
        self.failure: str | None = None
        """Why the group ended for good."""
        self._recovery = Recovery(restart or RestartPolicy())
        self._commands = commands or Commands()
        self._nodes = nodes
        self._on_event = on_event
        self._crew = Crew(self.bring_down)
        self._control: ControlServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._settled = asyncio.Event()
        self._down = asyncio.Event()
        self._down_reason = ""
        self._running = False
        self._explained = False
        self._hung = False
        """Whether the processes of this epoch run and do not get on."""
        self._last_reason = ""
        self._too_late = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of what runs now on this node."""
        return self._crew.pids

    @property
    def running(self) -> bool:
        """Whether an engine of the current epoch is starting or serving."""
        return self._running

    async def start(self) -> None:
        """Make the run_dir and start the first epoch; returns without waiting for it."""
        assert not self.config.run_dir, "a group starts once"
        self.config = msgspec.structs.replace(self.config, run_dir=str(make_run_dir()))
        self._control = ControlServer(self.config, self.on_status)
        self._tasks = [
            asyncio.create_task(self._control.receive()),
            asyncio.create_task(self._supervise()),
            asyncio.create_task(kill_stopped(lambda: self._crew.children)),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    async def wait_ready(self) -> None:
        """Wait until the engine first serves; raises GroupError if the group fails before or has failed since."""
        await self._settled.wait()
        if self.failure is not None:
            raise GroupError(self.failure)

    def send(self, role: str, message: SupervisorToProcess) -> None:
        """Send a control message to a child of that role, such as the gateway beside this group."""
        if self._control is not None:
            self._control.send(role, message)

    def bring_down(self, reason: str) -> None:
        """End the current epoch as if one of its processes had died; the restart policy decides what follows."""
        if not self._down.is_set():
            self._down_reason = reason
            self._down.set()
            self._crew.explain()

    def note(self, text: str) -> None:
        self._on_event(Note(text))

    def kill(self) -> None:
        """SIGKILL every process now, without waiting; for a second Ctrl-C."""
        self._crew.kill()
        self._remove_run_dir()

    async def stop(self, timeout: float = 5.0) -> None:
        """End every process (SIGTERM, SIGKILL after `timeout` seconds) and remove the run_dir. May be called again."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._set_timer(0.0)
        self._running = False
        await self._crew.end(timeout)
        if self._nodes is not None:
            await self._nodes.close(self.failure or "")
        if self._control is not None:
            self._control.close()
            self._control = None
        self._remove_run_dir()
        if self.failure is None:
            self.failure = "the engine was stopped"
        self._settled.set()

    def _remove_run_dir(self) -> None:
        if self.config.run_dir:
            shutil.rmtree(Path(self.config.run_dir), ignore_errors=True)

    # --- epochs ----------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run epoch after epoch until the policy says that it is over."""
        if self._nodes is not None:
            try:
                self.config = await self._nodes.open(self.config, self)
            except (OSError, ValueError) as error:
                self._fail(str(error))
                return
        while True:
            reason = self._last_reason = await self._run_epoch()
            final = self._recovery.lost(reason, explained=self._explained)
            await self._end_epoch(reason, final)
            if final is None:
                self._set_timer(self._recovery.seconds_left)
                delay = self._recovery.delay()
                self._on_event(Restarting(self.config.epoch + 1, delay, reason))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._too_late.wait(), delay)
                final = self._recovery.missed(reason)
                if final is not None:
                    self._on_event(EngineDown(self.config.epoch, final))
            if final is not None:
                self._fail(final)
                return
            self.config = msgspec.structs.replace(self.config, epoch=self.config.epoch + 1)

    async def _run_epoch(self) -> str:
        """Start all processes; returns why the epoch ended, its processes not yet."""
        self._down = asyncio.Event()
        self._down_reason = ""
        self._explained = self._hung = False
        self._crew = Crew(self.bring_down)
        try:
            await self._gather_nodes()
            if not self._down.is_set():
                self._running = True
                await self._spawn()
                self._on_event(EngineUp(self.config.epoch))
            await self._down.wait()
        except OSError as error:
            self._explained = True
            return f"cannot start a process: {error}"
        return self._down_reason

    async def _gather_nodes(self) -> None:
        """Wait until all nodes are there, or the epoch is over before it began."""
        if self._nodes is None:
            return
        deadline = None if self._recovery.has_served else self.config.nodes.join_timeout
        waiting = asyncio.create_task(self._nodes.complete(deadline))
        over = asyncio.create_task(self._down.wait())
        try:
            await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        except TimeoutError as error:
            self._explained = True
            self.bring_down(str(error))
        finally:
            waiting.cancel()
            over.cancel()

    async def _spawn(self) -> None:
        config = self.config
        secrets = {KEYS_VARIABLE: ""} if self._nodes is None else self._nodes.environment()
        await self._crew.spawn("engine", self._commands.engine, config, secrets)
        meeting, interface = rendezvous(config), interface_of(config.nodes.node_addr)
        for rank in local_ranks(config):
            environment = worker_environment(config, rank, meeting, interface)
            await self._crew.spawn(
                f"worker-{rank}", self._commands.worker, worker_config(config), environment | secrets
            )
        if self._nodes is not None:
            self._nodes.start_epoch(config.epoch)

    async def _end_epoch(self, reason: str, final: str | None) -> None:
        """Tell first: clients should not wait for processes to be reaped."""
        self._running = False
        self._on_event(
            EngineDown(self.config.epoch, final or reason, self._recovery.seconds_left if not final else 0.0)
        )
        if self._nodes is not None:
            self._nodes.stop_epoch(self.config.epoch, reason, hung=self._hung)
        if self._hung:
            await log_stacks(self._crew.children, self.config)
        await self._crew.end()

    def _set_timer(self, seconds: float) -> None:
        """Call off a start that takes longer than the recovery may; 0: no such limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds + 0.01, self._on_too_late)

    def _on_too_late(self) -> None:
        self._too_late.set()
        self._hung = self._running
        self.bring_down(self._last_reason)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._settled.set()
        self._on_event(GroupFailed(reason))

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """A supervisor that dies silently would leave everybody waiting: make its own errors the group's."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the supervisor failed", exc_info=error)
            self.kill()
            self._fail(f"the supervisor failed: {error!r}")

    def on_status(self, status: ProcessStatus) -> None:
        """Children's reports: of this epoch's engine and workers on any node, and of a gateway beside them."""
        if status.role == "gateway":
            self._on_event(status)
            return
        if not self._running or status.epoch != self.config.epoch:
            return  # The last words of a process that is dead already.
        self._on_event(status)
        if status.state in ("failed", "hung"):
            asyncio.get_running_loop().call_later(_FIRST_CAUSE_SECONDS, self._on_failed, self._down, status)
        elif status.role == "engine" and status.state == "ready" and not self._recovery.serving:
            self._recovery.serves()
            self._set_timer(0.0)
            self._settled.set()
            self._on_event(EngineReady(status.epoch))

    def _on_failed(self, down: asyncio.Event, status: ProcessStatus) -> None:
        """A process of the epoch that `down` ends said that it failed, and nothing else explained it meanwhile."""
        if down is self._down and not down.is_set():
            self._explained = True
            self._hung = status.state == "hung"
            self.bring_down(status.detail or f"{status.role} failed")
