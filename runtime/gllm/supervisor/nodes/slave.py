"""The process behind `gllm serve --launch-mode slave`: this node's workers, at the command of the master."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

import msgspec

from gllm import __version__
from gllm.config import Config, EngineConfig
from gllm.supervisor.control import ControlServer
from gllm.supervisor.crew import Crew
from gllm.supervisor.nodes.addresses import Resolver, address_towards, interface_of, resolve, resolve_by
from gllm.supervisor.nodes.admission import shape_of
from gllm.supervisor.nodes.placement import local_ranks, rendezvous, worker_config, worker_environment
from gllm.supervisor.nodes.slave_link import LinkLost, LinkRefused, SlaveLink
from gllm.supervisor.process import Commands
from gllm.supervisor.progress import ProgressPrinter
from gllm.supervisor.run_dir import make_run_dir
from gllm.supervisor.signals import handling
from gllm.supervisor.stacks import log_stacks
from gllm.supervisor.stopped import kill_stopped
from gllm.wire.curve import KEYS_VARIABLE, Keys
from gllm.wire.messages import ProcessStatus
from gllm.wire.node_messages import (
    PROTOCOL,
    Goodbye,
    Join,
    Leaving,
    MasterToSlave,
    ModelDigest,
    NodeExit,
    NodeStatus,
    StartEpoch,
    StopEpoch,
)

_LEAVING_GRACE_SECONDS = 5.0
"""What a slave that was asked to end stays on top of the drain timeout, for the master to finish."""


class Slave:
    """Finds the master, joins, and runs what it says; when the link is over it ends its workers and joins anew.

    Signals: SIGTERM tells the master and waits for its end, or for the drain timeout (exit status 0); SIGINT and SIGHUP
    end at once (0). A refusal, or no master within the join timeout, is one line and status 1.
    """

    def __init__(
        self,
        config: Config,
        keys: Keys,
        model: ModelDigest,
        *,
        commands: Commands | None = None,
        resolver: Resolver = resolve,
        err: TextIO = sys.stderr,
    ) -> None:
        self._config = config
        self._keys = keys
        self._model = model
        self._commands = commands or Commands()
        self._resolver = resolver
        self._progress = ProgressPrinter(err)
        self._link: SlaveLink | None = None
        self._crew = Crew(lambda reason: None)
        self._joined = False
        self._stopping = asyncio.Event()
        self._leaving = False

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of what runs now."""
        return self._crew.pids

    async def run(self) -> int:
        """Serve the group until a signal, the master or a failure ends it; returns the exit status."""
        self._config = msgspec.structs.replace(self._config, run_dir=str(make_run_dir()))
        control = ControlServer(self._config, self._on_status)
        with handling(terminate=self._on_terminate, interrupt=self._on_interrupt):
            tasks = [
                asyncio.create_task(control.receive()),
                asyncio.create_task(kill_stopped(lambda: self._crew.children)),
            ]
            work = asyncio.create_task(self._work())
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                failure = work.result() if work.done() else None
            finally:
                for task in (work, stopping, *tasks):
                    task.cancel()
                await asyncio.gather(work, stopping, *tasks, return_exceptions=True)
                await self._crew.end()
                control.close()
                shutil.rmtree(Path(self._config.run_dir), ignore_errors=True)
        if failure is None:
            return 0
        self._progress.line(f"gllm: error: {failure}")
        return 1

    async def _work(self) -> str | None:
        """Join again and again; returns why that is over, None if the master ended in order."""
        nodes = self._config.nodes
        deadline = time.monotonic() + nodes.join_timeout
        while True:
            try:
                goodbye = await self._membership(deadline)
            except LinkRefused as error:
                return str(error)
            except (LinkLost, OSError) as error:
                await self._crew.end()
                if self._leaving:
                    return None
                if not self._joined:
                    return f"{error}; gave up after --join-timeout {nodes.join_timeout:g} s"
                self._progress.line(f"gllm: {error}; joining anew")
                deadline = time.monotonic() + nodes.join_timeout
            else:
                await self._crew.end()
                return f"the master ended: {goodbye.failure}" if goodbye.failure else None

    async def _membership(self, deadline: float) -> Goodbye:
        """From the search for the master to its last word."""
        nodes = self._config.nodes
        self._joined = False
        address = await resolve_by(nodes.master_addr, deadline, self._resolver)
        own = nodes.node_addr or address_towards(address)
        nodes = msgspec.structs.replace(nodes, master_addr=address, node_addr=own)
        config = msgspec.structs.replace(self._config, nodes=nodes)
        async with SlaveLink(nodes, self._keys) as link:
            shape = shape_of(config.engine, nodes)
            join = Join(
                protocol=PROTOCOL,
                version=__version__,
                node_rank=nodes.node_rank,
                host=own,
                shape=shape,
                model=self._model,
            )
            welcome = await link.join(join, deadline)
            self._joined = True
            self._progress.line(f"gllm: node {nodes.node_rank} joined the master at {address}:{nodes.master_port}")
            config = msgspec.structs.replace(config, engine=_shared(welcome.engine, config.engine))
            self._link = link
            try:
                while not isinstance(message := await link.next_message(), Goodbye):
                    await self._obey(message, config)
                return message
            finally:
                self._link = None

    async def _obey(self, message: MasterToSlave, config: Config) -> None:
        match message:
            case StartEpoch(epoch=epoch):
                await self._crew.end()
                await self._start(msgspec.structs.replace(config, epoch=epoch))
            case StopEpoch(epoch=epoch, reason=reason, hung=hung):
                self._progress.line(f"gllm: {reason}; waiting for the master to start again")
                if hung:
                    await log_stacks(self._crew.children, msgspec.structs.replace(config, epoch=epoch))
                await self._crew.end()

    async def _start(self, config: Config) -> None:
        crew = self._crew = Crew(lambda reason: self._tell(NodeExit(config.epoch, reason)))
        interface = interface_of(config.nodes.node_addr)
        for rank in local_ranks(config):
            environment = worker_environment(config, rank, rendezvous(config), interface)
            environment[KEYS_VARIABLE] = self._keys.text()
            try:
                await crew.spawn(f"worker-{rank}", self._commands.worker, worker_config(config), environment)
            except OSError as error:
                self._tell(NodeExit(config.epoch, f"cannot start a process: {error}"))

    def _on_status(self, status: ProcessStatus) -> None:
        self._progress.status(status)
        self._tell(NodeStatus(status))

    def _tell(self, message: NodeExit | NodeStatus | Leaving) -> None:
        if self._link is not None:
            self._link.send(message)

    # --- signals -----------------------------------------------------------------------------------------

    def _on_terminate(self) -> None:
        """Whether requests are to finish is the master's business: tell it, and be of use until it is done."""
        if self._leaving:
            return
        self._leaving = True
        if self._link is None:
            self._stopping.set()
            return
        seconds = self._config.gateway.drain_timeout + _LEAVING_GRACE_SECONDS
        self._tell(Leaving(seconds))
        self._progress.line(f"gllm: staying until the master ends, {seconds:g} s at most")
        asyncio.get_running_loop().call_later(seconds, self._stopping.set)

    def _on_interrupt(self) -> None:
        if self._stopping.is_set():
            self._crew.kill()
            os._exit(128 + signal.SIGINT)
        self._stopping.set()


def _shared(master: EngineConfig, own: EngineConfig) -> EngineConfig:
    """The master's settings, with what is this node's own: where the model lies, and what the machine has."""
    return msgspec.structs.replace(
        master,
        model=own.model,
        threads=own.threads,
        kv_cache_memory=own.kv_cache_memory or master.kv_cache_memory,
        trace="",
    )
