"""The master's end of the link between supervisors: takes slaves in, hears them, and notices when one is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec
import zmq
import zmq.asyncio

from gllm.config import Config, tcp_address
from gllm.supervisor.nodes.addresses import Resolver, is_wildcard, resolve, resolve_by
from gllm.supervisor.nodes.admission import refusal_of, refusal_of_stranger, shape_of
from gllm.supervisor.nodes.interfaces import NodeListener
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


class Member:
    """A slave that is in. Each time it joins it comes with another identity, so that its past cannot speak for it."""

    def __init__(self, rank: int, identity: bytes, host: str) -> None:
        self.rank = rank
        self.identity = identity
        self.name = f"node {rank} ({host[:64]})"
        self.last_heard = time.monotonic()


class Master:
    """The nodes beside the master's own, see `gllm.supervisor.nodes.interfaces.OtherNodes`."""

    def __init__(self, keys: Keys, model: ModelDigest, *, resolver: Resolver = resolve) -> None:
        self._keys = keys
        self._model = model
        self._resolver = resolver
        self._members: dict[int, Member] = {}
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
        self._shape = shape_of(config.engine, nodes)
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
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._beat())]
        return config

    async def complete(self, deadline: float | None) -> None:
        try:
            await asyncio.wait_for(self._complete.wait(), deadline)
        except TimeoutError:
            missing = sorted(set(range(1, self._shape.nnodes)) - set(self._members))
            names = ", ".join(map(str, missing))
            raise TimeoutError(
                f"node {names} did not join within {deadline:g} s (--join-timeout); each is started with "
                f"--launch-mode slave --node-rank {missing[0]} --master-addr {self._config.nodes.master_addr}"
            ) from None

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._tell_all(StartEpoch(epoch))
        if not self._complete.is_set():
            self._listener.bring_down("a node was lost while the others were starting")

    def stop_epoch(self, epoch: int, reason: str, *, hung: bool) -> None:
        self._epoch = None
        self._tell_all(StopEpoch(epoch, reason, hung))

    def environment(self) -> dict[str, str]:
        return {KEYS_VARIABLE: self._keys.text()}

    async def close(self, failure: str) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._context is not None:
            for member in self._members.values():
                self._send(member.identity, Goodbye(failure))
            self._authenticator.stop()
            self._context.destroy(linger=_GOODBYE_MILLISECONDS)
            self._context = None

    # --- the link ------------------------------------------------------------------------------------------

    def _send(self, identity: bytes, message: MasterToSlave) -> bool:
        """False if the other end is not connected any more."""
        sent = asyncio.ensure_future(self._socket.send_multipart([identity, encode(message)], zmq.NOBLOCK))
        # pyzmq tries at once; with an unbounded queue there is nothing to wait for.
        return not (sent.done() and sent.exception() is not None)

    def _tell_all(self, message: MasterToSlave) -> None:
        for member in list(self._members.values()):
            if not self._send(member.identity, message):
                self._lose(member, "its link closed")

    async def _receive(self) -> None:
        while True:
            identity, *frames = await self._socket.recv_multipart()
            if len(frames) != 1:
                continue
            refusal = refusal_of_stranger(frames[0])
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
                self._hear(identity, message)

    def _join(self, identity: bytes, join: Join) -> None:
        rank = join.node_rank
        refusal = refusal_of(join, self._shape, self._model)
        present = self._members.get(rank)
        if present is not None and present.identity == identity:
            return
        if refusal is None and present is not None and self._alive(present):
            refusal = Refuse(f"there is a node {rank} already, {present.name}; is --node-rank right?", retry=True)
        if refusal is not None:
            self._refuse(identity, f"node {rank} ({join.host[:64]})", refusal)
            return
        if present is not None:
            self._lose(present, "it joined anew")
        member = self._members[rank] = Member(rank, identity, join.host)
        self._send(identity, Welcome(self._config.engine))
        self._listener.note(f"{member.name} joined ({len(self._members) + 1} of {self._shape.nnodes})")
        if len(self._members) == self._shape.nnodes - 1:
            self._complete.set()

    def _refuse(self, identity: bytes, who: str, refusal: Refuse) -> None:
        self._send(identity, refusal)
        line = f"refused {who}: {refusal.reason}"
        if line not in self._refused:
            # One that may come later asks twice a second.
            self._refused.add(line)
            self._listener.note(line)

    def _alive(self, member: Member) -> bool:
        """Whether it is heard and its link stands: a slave that was killed and came back must not find it taken."""
        silence = time.monotonic() - member.last_heard
        return silence < 3 * self._config.nodes.heartbeat_interval and self._send(member.identity, Heartbeat())

    def _hear(self, identity: bytes, message: NodeStatus | NodeExit | Leaving | Heartbeat) -> None:
        member = next((one for one in self._members.values() if one.identity == identity), None)
        if member is None:
            # It was given up, and does not know: a supervisor that was stopped, or cut off, for too long.
            self._send(identity, Refuse("it was given up; it has to join anew", retry=True))
            return
        member.last_heard = time.monotonic()
        match message:
            case NodeStatus(status=status):
                ranks = ranks_of(member.rank, self._config.engine, self._config.nodes)
                if status.role in {f"worker-{rank}" for rank in ranks}:
                    self._listener.on_status(status)
            case NodeExit(epoch=epoch, reason=reason):
                if epoch == self._epoch:
                    self._listener.bring_down(f"{reason} on {member.name}")
            case Leaving(seconds=seconds):
                self._listener.note(f"{member.name} was asked to end; it stays for {seconds:g} s, or until we end")
            case Heartbeat():
                pass

    async def _beat(self) -> None:
        nodes = self._config.nodes
        previous = time.monotonic()
        while True:
            await asyncio.sleep(nodes.heartbeat_interval)
            now = time.monotonic()
            # Were we ourselves stopped? Then what they said meanwhile is still to be read.
            ours = max(0.0, now - previous - 2 * nodes.heartbeat_interval)
            previous = now
            for member in list(self._members.values()):
                member.last_heard += min(ours, now - member.last_heard)
                if not self._send(member.identity, Heartbeat()):
                    self._lose(member, "its link closed")
                elif now - member.last_heard > nodes.heartbeat_timeout:
                    self._lose(member, f"it was silent for {now - member.last_heard:.1f} s (--heartbeat-timeout)")

    def _lose(self, member: Member, why: str) -> None:
        with contextlib.suppress(KeyError):
            if self._members[member.rank] is member:
                del self._members[member.rank]
        self._complete.clear()
        if self._epoch is not None:
            self._listener.bring_down(f"{member.name} was lost: {why}")
        else:
            self._listener.note(f"{member.name} was lost: {why}")
