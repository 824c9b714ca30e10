"""One serving group without its HTTP side: an engine and its workers, started, watched and restarted together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gllm.config import Config
from gllm.messages import EngineDown, EngineUp, Status, SupervisorToProcess
from gllm.supervisor.control import ControlServer
from gllm.supervisor.process import Child, Commands, end_all
from gllm.supervisor.run_dir import make_run_dir

_log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 0.25
"""A child that fails reports why and exits: how long its report may come in after its exit was seen."""


class EngineReady(msgspec.Struct, frozen=True):
    """The engine of this epoch serves."""

    epoch: int


class Restarting(msgspec.Struct, frozen=True):
    """The next epoch starts after `delay` seconds."""

    epoch: int
    delay: float
    reason: str


class GroupFailed(msgspec.Struct, frozen=True):
    """The group ended and will not come back. `reason` is one line for the user."""

    reason: str


GroupEvent = Status | EngineUp | EngineReady | EngineDown | Restarting | GroupFailed


class GroupError(Exception):
    """The group failed; str(error) is the one line that says why."""


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When and how fast a dead group comes back."""

    enabled: bool = True
    first_delay: float = 0.5
    """Seconds before the first restart; doubles with each one after it."""
    longest_delay: float = 10.0
    healthy_after: float = 60.0
    """An epoch that served this many seconds resets the delay."""
    max_failed_starts: int = 3
    """Starts in a row that may end before the engine is ready."""


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
        on_event: Callable[[GroupEvent], None] = lambda event: None,
    ) -> None:
        self.config = config
        """Of the current epoch; with `run_dir` set once started."""
        self.failure: str | None = None
        """Why the group ended for good."""
        self._restart = restart or RestartPolicy()
        self._commands = commands or Commands()
        self._on_event = on_event
        self._children: list[Child] = []
        self._control: ControlServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._settled = asyncio.Event()
        self._down = asyncio.Event()
        self._down_reason = ""
        self._ready_since: float | None = None
        self._running = False
        self._explained = False

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of what runs now."""
        return {child.role: child.pid for child in self._children if child.exit_status is None}

    @property
    def running(self) -> bool:
        """Whether an engine of the current epoch is starting or serving."""
        return self._running

    async def start(self) -> None:
        """Make the run_dir and start the first epoch; returns without waiting for it."""
        assert not self.config.run_dir, "a group starts once"
        self.config = msgspec.structs.replace(self.config, run_dir=str(make_run_dir()))
        self._control = ControlServer(self.config, self._on_status)
        self._tasks = [asyncio.create_task(self._control.receive()), asyncio.create_task(self._supervise())]
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

    def kill(self) -> None:
        """SIGKILL every process now, without waiting; for a second Ctrl-C."""
        for child in self._children:
            child.kill()
        self._remove_run_dir()

    async def stop(self, timeout: float = 5.0) -> None:
        """End every process (SIGTERM, SIGKILL after `timeout` seconds) and remove the run_dir. May be called again."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running = False
        await end_all(self._children, timeout)
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

    async def _supervise(self) -> None:
        """Run epoch after epoch until the policy says that it is over."""
        restarts = failed_starts = 0
        while True:
            reason = await self._run_epoch()
            served = 0.0 if self._ready_since is None else time.monotonic() - self._ready_since
            failed_starts = failed_starts + 1 if self._ready_since is None else 0
            if served >= self._restart.healthy_after:
                restarts = 0
            final = self._final_reason(reason, failed_starts)
            if final is not None:
                self._fail(final)
                return
            delay = min(self._restart.first_delay * 2**restarts, self._restart.longest_delay)
            restarts += 1
            epoch = self.config.epoch + 1
            self._on_event(Restarting(epoch, delay, reason))
            await asyncio.sleep(delay)
            self.config = msgspec.structs.replace(self.config, epoch=epoch)

    def _final_reason(self, reason: str, failed_starts: int) -> str | None:
        """Why not to start again, or None to do so."""
        if not self._restart.enabled:
            return reason
        if failed_starts and self._explained and not self._settled.is_set():
            return reason  # It never served and said why: the same settings would fail the same way.
        if failed_starts >= self._restart.max_failed_starts:
            return f"gave up after {failed_starts} failed starts: {reason}"
        return None

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

    async def _run_epoch(self) -> str:
        """Start all processes and watch them; returns why the epoch ended, with every process reaped."""
        self._down = asyncio.Event()
        self._down_reason = ""
        self._explained = False
        self._ready_since = None
        exits: list[asyncio.Task[None]] = []
        try:
            self._children = []
            self._running = True
            await self._spawn()
            self._on_event(EngineUp(self.config.epoch))
            exits = [asyncio.create_task(self._watch(child)) for child in self._children]
            await self._down.wait()
        except OSError as error:
            self._down_reason = f"cannot start a process: {error}"
        finally:
            for task in exits:
                task.cancel()
        self._running = False
        self._on_event(EngineDown(self.config.epoch, self._down_reason))
        await end_all(self._children, timeout=0)
        return self._down_reason

    async def _spawn(self) -> None:
        ranks = range(1)
        self._children.append(await Child.spawn("engine", self._commands.engine, self.config))
        for rank in ranks:
            self._children.append(
                await Child.spawn(f"worker-{rank}", self._commands.worker, self.config, {"RANK": str(rank)})
            )

    async def _watch(self, child: Child) -> None:
        status = await child.wait()
        if status >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._down.wait(), LAST_WORDS_SECONDS)
        self.bring_down(child.describe_exit())

    def _on_status(self, status: Status) -> None:
        """Children's reports: of this epoch's engine and workers, and of a gateway beside them."""
        if status.role == "gateway":
            self._on_event(status)
            return
        if not self._running or status.epoch != self.config.epoch:
            return  # The last words of a process that is dead already.
        self._on_event(status)
        if status.state == "failed":
            self._explained = True
            self.bring_down(status.detail or f"{status.role} failed")
        elif status.role == "engine" and status.state == "ready" and self._ready_since is None:
            self._ready_since = time.monotonic()
            self._settled.set()
            self._on_event(EngineReady(status.epoch))
