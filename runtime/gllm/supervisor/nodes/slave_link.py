"""The slave's end of the link between supervisors, for one connection."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from gllm.config import NodesConfig, tcp_address
from gllm.wire.curve import Keys, secure_client
from gllm.wire.node_messages import Heartbeat, Join, MasterToSlave, Refuse, SlaveToMaster, Welcome
from gllm.wire.transport import configure_socket, decoder, encode

T = TypeVar("T")

_decoder = decoder(MasterToSlave)
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)
_MOST_FAILED_HANDSHAKES = 10
_SAME_KEYS = "give every node the same --keys-file"


class LinkLost(Exception):
    """The master does not answer or the link closed; a retry may succeed. str(error) is the reason."""


class LinkRefused(Exception):
    """The master refuses this node; a retry would fail the same way."""


class SlaveLink:
    """A DEALER with a new identity for each connection, so that the master recognizes messages of an earlier one.

    async with SlaveLink(nodes, keys) as link:
        welcome = await link.join(join, deadline)
        while True: message = await link.next_message()
    """

    def __init__(self, nodes: NodesConfig, keys: Keys) -> None:
        """`nodes.master_addr` is an address, not a name."""
        self._nodes = nodes
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        configure_socket(self._socket, f"node-{nodes.node_rank}-{secrets.token_hex(8)}")
        secure_client(self._socket, keys)
        self._socket.reconnect_ivl = 200
        self._socket.reconnect_ivl_max = 1000
        self._where = f"{nodes.master_addr}:{nodes.master_port}"
        self._connected = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Its exception is the reason why the link ended."""
        self._last_message_time = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> SlaveLink:
        address = f"inproc://monitor-{id(self)}"
        self._socket.monitor(address, _EVENTS)
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.connect(address)
        self._tasks = [asyncio.create_task(self._watch(monitor))]
        self._socket.connect(tcp_address(self._nodes.master_addr, self._nodes.master_port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._over.done():
            self._over.exception()  # Mark it as retrieved: the caller has seen it or no longer needs it.
        self._socket.disable_monitor()
        self._context.destroy(linger=200)

    def send(self, message: SlaveToMaster) -> None:
        self._socket.send(encode(message), zmq.NOBLOCK)

    async def join(self, join: Join, deadline: float) -> Welcome:
        """Ask until the master answers. Raises LinkLost at `deadline` (time.monotonic()), LinkRefused on a refusal."""
        await self._before(self._connected.wait(), deadline - time.monotonic())
        reason = ""
        while time.monotonic() < deadline:
            self.send(join)
            try:
                answer = await self._before(self._receive(), min(2.0, deadline - time.monotonic()))
            except LinkLost:
                if self._over.done():
                    raise
                continue
            if isinstance(answer, Welcome):
                self._last_message_time = time.monotonic()
                self._tasks.append(asyncio.create_task(self._send_heartbeats()))
                return answer
            if isinstance(answer, Refuse):
                reason = answer.reason
                if not answer.retry:
                    raise LinkRefused(f"the master at {self._where} refused this node: {reason}")
                await asyncio.sleep(self._nodes.heartbeat_interval)
        raise LinkLost(f"the master at {self._where} did not accept this node: {reason or 'it does not answer'}")

    async def next_message(self) -> MasterToSlave:
        """Return the master's next message. Raises LinkLost when the link ends."""
        while True:
            message = await self._before(self._receive(), None)
            if isinstance(message, Refuse):
                raise LinkLost(f"the master removed this node: {message.reason}")
            if not isinstance(message, Heartbeat):
                return message

    async def _receive(self) -> MasterToSlave:
        while True:
            payload = await self._socket.recv()
            self._last_message_time = time.monotonic()
            try:
                message: MasterToSlave = _decoder.decode(payload)
            except msgspec.DecodeError as error:
                raise LinkRefused(
                    f"the master at {self._where} sent a message that does not decode; is its version different? "
                    f"({error})"
                ) from None
            return message

    async def _before(self, work: Coroutine[Any, Any, T], seconds: float | None) -> T:
        """Return the result of `work`. Raises the link's error, or LinkLost after `seconds`, if that comes first."""
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self._over}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._over.done():
                self._over.result()
            raise LinkLost(f"no answer from the master at {self._where}")
        finally:
            task.cancel()

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """Handle the connection's events."""
        failed = 0
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected.set()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._end(LinkRefused(f"the master at {self._where} does not know this node's keys: {_SAME_KEYS}"))
            elif event == zmq.EVENT_DISCONNECTED:
                if self._connected.is_set():
                    self._end(LinkLost("the link to the master closed"))
            else:
                failed += 1
                if failed >= _MOST_FAILED_HANDSHAKES:
                    self._end(LinkRefused(f"the server at {self._where} has other keys: {_SAME_KEYS}"))

    async def _send_heartbeats(self) -> None:
        nodes = self._nodes
        previous = time.monotonic()
        while True:
            await asyncio.sleep(nodes.heartbeat_interval)
            self.send(Heartbeat())
            now = time.monotonic()
            if now - previous > nodes.heartbeat_timeout:
                self._end(LinkLost(f"this supervisor was stopped for {now - previous:.1f} s"))
            elif now - self._last_message_time > nodes.heartbeat_timeout:
                self._end(
                    LinkLost(f"the master was silent for {now - self._last_message_time:.1f} s (--heartbeat-timeout)")
                )
            previous = now

    def _end(self, error: LinkLost | LinkRefused) -> None:
        if not self._over.done():
            self._over.set_exception(error)
