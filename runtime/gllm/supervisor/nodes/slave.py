"""The process of `gllm serve --launch-mode slave`: it runs this node's workers as the master orders."""

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
from gllm.supervisor.child_process import Commands
from gllm.supervisor.control import ControlServer, make_run_dir
from gllm.supervisor.nodes.addresses import Resolver, address_towards, interface_of, resolve, resolve_by
from gllm.supervisor.nodes.join_checks import parallel_config_of
from gllm.supervisor.nodes.placement import local_ranks, rendezvous_of, worker_config, worker_environment
from gllm.supervisor.nodes.slave_link import LinkLost, LinkRefused, SlaveLink
from gllm.supervisor.process_group import ProcessGroup
from gllm.supervisor.progress import ProgressPrinter
from gllm.supervisor.signals import handle_signals, kill_stopped
from gllm.supervisor.stacks import log_stacks
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
"""After SIGTERM a slave waits for the drain timeout and this many seconds until the master has ended."""


class Slave:
    """Finds the master, joins, and carries out its orders. When the link is lost, it ends its workers and joins again.

    Signals: SIGTERM tells the master and waits until it ends, or for the drain timeout (exit status 0); SIGINT and
    SIGHUP end at once (0). A refusal, or no master within the join timeout, prints one line and exits with 1.
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
        self._processes = ProcessGroup(lambda reason: None)
        self._joined = False
        self._stopping = asyncio.Event()
        self._leaving = False

    @property
    def pids(self) -> dict[str, int]:
        """Role to process id of each running process."""
        return self._processes.pids

    async def run(self) -> int:
        """Serve until a signal, the master or a failure ends it. Returns the exit status."""
        self._config = msgspec.structs.replace(self._config, run_dir=str(make_run_dir()))
        control = ControlServer(self._config, self._on_status)
        with handle_signals(terminate=self._on_terminate, interrupt=self._on_interrupt):
            tasks = [
                asyncio.create_task(control.receive()),
                asyncio.create_task(kill_stopped(lambda: self._processes.children)),
            ]
            work = asyncio.create_task(self._serve())
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                failure = work.result() if work.done() else None
            finally:
                for task in (work, stopping, *tasks):
                    task.cancel()
                await asyncio.gather(work, stopping, *tasks, return_exceptions=True)
                await self._processes.end()
                control.close()
                shutil.rmtree(Path(self._config.run_dir), ignore_errors=True)
        if failure is None:
            return 0
        self._progress.line(f"gllm: error: {failure}")
        return 1

    async def _serve(self) -> str | None:
        """Join, and join again after each lost link. Returns why the group failed, None if it ended in order."""
        nodes = self._config.nodes
        deadline = time.monotonic() + nodes.join_timeout
        while True:
            try:
                goodbye = await self._follow_master(deadline)
            except LinkRefused as error:
                return str(error)
            except (LinkLost, OSError) as error:
                await self._processes.end()
                if self._leaving:
                    return None
                if not self._joined:
                    return f"{error}; gave up after --join-timeout {nodes.join_timeout:g} s"
                self._progress.line(f"gllm: {error}; joining again")
                deadline = time.monotonic() + nodes.join_timeout
            else:
                await self._processes.end()
                return f"the master ended: {goodbye.failure}" if goodbye.failure else None

    async def _follow_master(self, deadline: float) -> Goodbye:
        """Find the master, join, and handle its messages until it says goodbye."""
        nodes = self._config.nodes
        self._joined = False
        address = await resolve_by(nodes.master_addr, deadline, self._resolver)
        own = nodes.node_addr or address_towards(address)
        nodes = msgspec.structs.replace(nodes, master_addr=address, node_addr=own)
        config = msgspec.structs.replace(self._config, nodes=nodes)
        async with SlaveLink(nodes, self._keys) as link:
            parallel = parallel_config_of(config.engine, nodes)
            join = Join(
                protocol=PROTOCOL,
                version=__version__,
                node_rank=nodes.node_rank,
                host=own,
                parallel=parallel,
                model=self._model,
            )
            welcome = await link.join(join, deadline)
            self._joined = True
            self._progress.line(f"gllm: node {nodes.node_rank} joined the master at {address}:{nodes.master_port}")
            config = msgspec.structs.replace(config, engine=_merge_settings(welcome.engine, config.engine))
            self._link = link
            try:
                while not isinstance(message := await link.next_message(), Goodbye):
                    await self._handle(message, config)
                return message
            finally:
                self._link = None

    async def _handle(self, message: MasterToSlave, config: Config) -> None:
        match message:
            case StartEpoch(epoch=epoch):
                await self._processes.end()
                await self._start_workers(msgspec.structs.replace(config, epoch=epoch))
            case StopEpoch(epoch=epoch, reason=reason, hung=hung):
                self._progress.line(f"gllm: {reason}; waiting for the master to start again")
                if hung:
                    await log_stacks(self._processes.children, msgspec.structs.replace(config, epoch=epoch))
                await self._processes.end()

    async def _start_workers(self, config: Config) -> None:
        processes = self._processes = ProcessGroup(lambda reason: self._send(NodeExit(config.epoch, reason)))
        interface = interface_of(config.nodes.node_addr)
        for rank in local_ranks(config):
            environment = worker_environment(config, rank, rendezvous_of(config), interface)
            environment[KEYS_VARIABLE] = self._keys.text()
            try:
                await processes.spawn(f"worker-{rank}", self._commands.worker, worker_config(config), environment)
            except OSError as error:
                self._send(NodeExit(config.epoch, f"cannot start a process: {error}"))

    def _on_status(self, status: ProcessStatus) -> None:
        self._progress.status(status)
        self._send(NodeStatus(status))

    def _send(self, message: NodeExit | NodeStatus | Leaving) -> None:
        if self._link is not None:
            self._link.send(message)

    # --- signals -----------------------------------------------------------------------------------------

    def _on_terminate(self) -> None:
        """Tell the master, and run until it ends: the master decides whether requests finish."""
        if self._leaving:
            return
        self._leaving = True
        if self._link is None:
            self._stopping.set()
            return
        seconds = self._config.gateway.drain_seconds + _LEAVING_GRACE_SECONDS
        self._send(Leaving(seconds))
        self._progress.line(f"gllm: running until the master ends, {seconds:g} s at most")
        asyncio.get_running_loop().call_later(seconds, self._stopping.set)

    def _on_interrupt(self) -> None:
        if self._stopping.is_set():
            self._processes.kill()
            os._exit(128 + signal.SIGINT)
        self._stopping.set()


def _merge_settings(master: EngineConfig, own: EngineConfig) -> EngineConfig:
    """Return the master's settings with this node's own model path, threads and memory."""
    return msgspec.structs.replace(
        master,
        model=own.model,
        threads=own.threads,
        kv_cache_memory=own.kv_cache_memory or master.kv_cache_memory,
        trace="",
    )
