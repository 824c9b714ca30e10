"""The master's end of the link between supervisors: slaves join, report, and are noticed when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec
import zmq
import zmq.asyncio

from gllm.config import Config, tcp_address
from gllm.supervisor.group_interface import NodeListener
from gllm.supervisor.nodes.addresses import Resolver, is_wildcard, resolve, resolve_by
from gllm.supervisor.nodes.join_checks import parallel_config_of, refusal_of, refusal_of_other_version
from gllm.supervisor.nodes.placement import ranks_of
from gllm.wire.curve import KEYS_VARIABLE, Keys, secure_server, start_authenticator
from gllm.wire.node_messages import (
    Goodbye,
    Heartbeat,
    Join,
    Leaving,
    MasterToSlave,
    ModelDigest,
    NodeExit,
    NodeStatus,
    Refuse,
    SlaveToMaster,
    StartEpoch,
    StopEpoch,
    Welcome,
)
from gllm.wire.transport import configure_socket, decoder, encode

_log = logging.getLogger(__name__)
_decoder = decoder(SlaveToMaster)
_GOODBYE_MILLISECONDS = 500


class JoinedSlave:
    """A slave that has joined. Each join has a new identity, so that messages of an earlier link are recognized."""

    def __init__(self, rank: int, identity: bytes, host: str) -> None:
        self.rank = rank
        self.identity = identity
        self.name = f"node {rank} ({host[:64]})"
        self.last_message_time = time.monotonic()


class Master:
    """The slaves of a group; implements `gllm.supervisor.group_interface.OtherNodes`."""

    def __init__(self, keys: Keys, model: ModelDigest, *, resolver: Resolver = resolve) -> None:
        self._keys = keys
        self._model = model
        self._resolver = resolver
        self._slaves: dict[int, JoinedSlave] = {}
        self._refused: set[str] = set()
        self._complete = asyncio.Event()
        self._epoch: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._context: zmq.asyncio.Context | None = None

    # --- for the group -----------------------------------------------------------------------------------

    async def open(self, config: Config, listener: NodeListener) -> Config:
        self._listener = listener
        nodes = config.nodes
        deadline = time.monotonic() + nodes.join_timeout
        own = await resolve_by(nodes.node_addr or nodes.master_addr, deadline, self._resolver)
        reached = await resolve_by(nodes.master_addr, deadline, self._resolver) if is_wildcard(own) else own
        nodes = msgspec.structs.replace(nodes, node_addr=own, master_addr=reached)
        self._config = config = msgspec.structs.replace(config, nodes=nodes)
        self._parallel = parallel_config_of(config.engine, nodes)
        self._context = zmq.asyncio.Context()
        self._authenticator = start_authenticator(self._context, self._keys)
        self._socket = self._context.socket(zmq.ROUTER)
        configure_socket(self._socket)
        self._socket.router_mandatory = True
        secure_server(self._socket, self._keys)
        try:
            self._socket.bind(tcp_address(own, nodes.master_port))
        except zmq.ZMQError as error:
            raise OSError(
                f"cannot listen on {own}:{nodes.master_port}: {error}; choose a free --master-port, and with "
                f"--master-addr or --node-addr an address of this machine"
            ) from None
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send_heartbeats())]
        return config

    async def complete(self, deadline: float | None) -> None:
        try:
            await asyncio.wait_for(self._complete.wait(), deadline)
        except TimeoutError:
            missing = sorted(set(range(1, self._parallel.nnodes)) - set(self._slaves))
            names = ", ".join(map(str, missing))
            raise TimeoutError(
                f"node {names} did not join within {deadline:g} s (--join-timeout); each is started with "
                f"--launch-mode slave --node-rank {missing[0]} --master-addr {self._config.nodes.master_addr}"
            ) from None

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._broadcast(StartEpoch(epoch))
        if not self._complete.is_set():
            self._listener.bring_down("a node was lost while the others were starting")

    def stop_epoch(self, epoch: int, reason: str, *, hung: bool) -> None:
        self._epoch = None
        self._broadcast(StopEpoch(epoch, reason, hung))

    def environment(self) -> dict[str, str]:
        return {KEYS_VARIABLE: self._keys.text()}

    async def close(self, failure: str) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._context is not None:
            for slave in self._slaves.values():
                self._send(slave.identity, Goodbye(failure))
            self._authenticator.stop()
            self._context.destroy(linger=_GOODBYE_MILLISECONDS)
            self._context = None

    # --- the link ------------------------------------------------------------------------------------------

    def _send(self, identity: bytes, message: MasterToSlave) -> bool:
        """Send a message; returns False if the other end is no longer connected."""
        sent = asyncio.ensure_future(self._socket.send_multipart([identity, encode(message)], zmq.NOBLOCK))
        # pyzmq sends at once: the queue has no bound.
        return not (sent.done() and sent.exception() is not None)

    def _broadcast(self, message: MasterToSlave) -> None:
        for slave in list(self._slaves.values()):
            if not self._send(slave.identity, message):
                self._remove(slave, "its link closed")

    async def _receive(self) -> None:
        while True:
            identity, *frames = await self._socket.recv_multipart()
            if len(frames) != 1:
                continue
            refusal = refusal_of_other_version(frames[0])
            if refusal is not None:
                self._refuse(identity, "a node", refusal)
                continue
            try:
                message = _decoder.decode(frames[0])
            except msgspec.DecodeError as error:
                _log.warning("a node sent what does not decode", extra={"error": error})
                continue
            if isinstance(message, Join):
                self._join(identity, message)
            else:
                self._handle(identity, message)

    def _join(self, identity: bytes, join: Join) -> None:
        rank = join.node_rank
        refusal = refusal_of(join, self._parallel, self._model)
        present = self._slaves.get(rank)
        if present is not None and present.identity == identity:
            return
        if refusal is None and present is not None and self._is_alive(present):
            refusal = Refuse(f"there is a node {rank} already, {present.name}; is --node-rank right?", retry=True)
        if refusal is not None:
            self._refuse(identity, f"node {rank} ({join.host[:64]})", refusal)
            return
        if present is not None:
            self._remove(present, "it joined again")
        slave = self._slaves[rank] = JoinedSlave(rank, identity, join.host)
        self._send(identity, Welcome(self._config.engine))
        self._listener.note(f"{slave.name} joined ({len(self._slaves) + 1} of {self._parallel.nnodes})")
        if len(self._slaves) == self._parallel.nnodes - 1:
            self._complete.set()

    def _refuse(self, identity: bytes, who: str, refusal: Refuse) -> None:
        self._send(identity, refusal)
        line = f"refused {who}: {refusal.reason}"
        if line not in self._refused:
            # A node that may join later asks twice a second: log the reason once.
            self._refused.add(line)
            self._listener.note(line)

    def _is_alive(self, slave: JoinedSlave) -> bool:
        """Whether it sends messages and its link is open: a slave that restarted must be able to join."""
        silence = time.monotonic() - slave.last_message_time
        return silence < 3 * self._config.nodes.heartbeat_interval and self._send(slave.identity, Heartbeat())

    def _handle(self, identity: bytes, message: NodeStatus | NodeExit | Leaving | Heartbeat) -> None:
        slave = next((one for one in self._slaves.values() if one.identity == identity), None)
        if slave is None:
            # The master has removed it: its supervisor was stopped, or its network was down, for too long.
            self._send(identity, Refuse("it was silent for too long and must join again", retry=True))
            return
        slave.last_message_time = time.monotonic()
        match message:
            case NodeStatus(status=status):
                ranks = ranks_of(slave.rank, self._config.engine, self._config.nodes)
                if status.role in {f"worker-{rank}" for rank in ranks}:
                    self._listener.on_status(status)
            case NodeExit(epoch=epoch, reason=reason):
                if epoch == self._epoch:
                    self._listener.bring_down(f"{reason} on {slave.name}")
            case Leaving(seconds=seconds):
                self._listener.note(f"{slave.name} was asked to end; it runs until we end, {seconds:g} s at most")
            case Heartbeat():
                pass

    async def _send_heartbeats(self) -> None:
        nodes = self._config.nodes
        previous = time.monotonic()
        while True:
            await asyncio.sleep(nodes.heartbeat_interval)
            now = time.monotonic()
            # If this process itself was stopped, messages of that time are still unread: do not count it as silence.
            stopped = max(0.0, now - previous - 2 * nodes.heartbeat_interval)
            previous = now
            for slave in list(self._slaves.values()):
                slave.last_message_time += min(stopped, now - slave.last_message_time)
                if not self._send(slave.identity, Heartbeat()):
                    self._remove(slave, "its link closed")
                elif now - slave.last_message_time > nodes.heartbeat_timeout:
                    self._remove(
                        slave, f"it was silent for {now - slave.last_message_time:.1f} s (--heartbeat-timeout)"
                    )

    def _remove(self, slave: JoinedSlave, reason: str) -> None:
        with contextlib.suppress(KeyError):
            if self._slaves[slave.rank] is slave:
                del self._slaves[slave.rank]
        self._complete.clear()
        if self._epoch is not None:
            self._listener.bring_down(f"{slave.name} was lost: {reason}")
        else:
            self._listener.note(f"{slave.name} was lost: {reason}")
