"""The engine's event loop: one poller over the gateways' socket and the workers' socket. It never spins."""

from __future__ import annotations

import gc
import logging
import socket as unix
import time
from collections.abc import Callable
from contextlib import suppress

import zmq

from gllm.config import Config
from gllm.engine.gateways import Gateways
from gllm.engine.scheduler import Scheduler
from gllm.engine.workers import EngineFailure, Workers, WorkersHang
from gllm.models.config import ModelConfig
from gllm.wire.curve import Keys, keys_of_group, secure_server, start_authenticator
from gllm.wire.transport import configure_socket

logger = logging.getLogger("gllm.engine")

HEARTBEAT_SECONDS = 1.0
_MESSAGES_A_TURN = 256
"""Most messages taken from one socket before the next step is planned."""
_FLUSH_MILLISECONDS = 1000
_GC_ALLOCATIONS = 100_000
"""Net allocations between collections: far more than a step's outputs, which reference counts free anyway."""


class EngineLoop:
    """Gateways and workers on two ROUTER sockets, the scheduler between them.

    Workers come first: only when every rank is ready are gateways greeted, those that came early too.
    """

    def __init__(
        self,
        config: Config,
        model: ModelConfig,
        *,
        report: Callable[[str, str], None] = lambda state, detail: None,
    ) -> None:
        """report(state, detail) tells the supervisor where the engine stands."""
        self._config = config
        self._model = model
        self._report = report
        self._side: Workers | None = None
        self._stopping = False
        self._wake_reader, self._wake_writer = unix.socketpair()
        self._wake_writer.setblocking(False)

    @property
    def scheduler(self) -> Scheduler | None:
        """What decides; None until the workers are ready."""
        return None if self._side is None else self._side.scheduler

    def stop(self) -> None:
        """Ask the loop to tell the workers to stop, and to return 0. Safe in a signal handler and in any thread."""
        self._stopping = True
        with suppress(OSError):  # full: the loop will wake up anyway; closed: it has just ended
            self._wake_writer.send(b"\0")

    def run(self) -> int:
        """Serve until `stop` (exit status 0) or a failure (1)."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        keys = authenticator = None
        try:
            if self._config.nodes.nnodes > 1:
                keys = keys_of_group()
                authenticator = start_authenticator(context, keys)
            to_gateways = self._bind(context, self._config.engine_address)
            to_workers = self._bind(context, self._config.worker_bind_address, keys)
            self._serve(to_gateways, to_workers)
        except EngineFailure as error:
            logger.error("engine failed", extra={"reason": str(error)})
            self._report("hung" if isinstance(error, WorkersHang) else "failed", str(error))
            return 1
        except Exception as error:
            logger.exception("engine failed")
            self._report("failed", f"{type(error).__name__}: {error}")
            return 1
        finally:
            if authenticator is not None:
                authenticator.stop()
            context.destroy(linger=_FLUSH_MILLISECONDS)
            self._wake_reader.close()
            self._wake_writer.close()
        return 0

    @staticmethod
    def _bind(context: zmq.Context[zmq.Socket[bytes]], address: str, keys: Keys | None = None) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.ROUTER)
        configure_socket(socket)
        if keys is not None:
            secure_server(socket, keys)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            hint = "; see --node-addr and --master-port" if address.startswith("tcp") else ""
            raise EngineFailure(f"cannot bind {address}: {error}{hint}") from None
        return socket

    def _serve(self, to_gateways: zmq.Socket[bytes], to_workers: zmq.Socket[bytes]) -> None:
        gateways = Gateways(to_gateways, self._model)
        workers = self._side = Workers(
            to_workers,
            self._config,
            self._model,
            report=self._report,
            on_ready=gateways.open,
            on_outputs=gateways.merge,
        )
        poller = zmq.Poller()
        for socket in (to_gateways, to_workers, self._wake_reader):
            poller.register(socket, zmq.POLLIN)
        next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        try:
            while not self._stopping:
                wait = max(0.0, next_heartbeat - time.monotonic())
                events = dict(poller.poll(int(wait * 1000) + 1))
                if to_workers in events:
                    self._read(to_workers, workers.receive)
                if to_gateways in events:
                    self._read(to_gateways, gateways.receive)
                # Plans first: a stage may wait for one, while an answer's client only waits a little longer.
                workers.send_plans()
                gateways.send_outputs()
                if time.monotonic() >= next_heartbeat:
                    next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                    workers.check_progress()
                    gateways.send_heartbeat()
            workers.stop()
        finally:
            workers.close()

    @staticmethod
    def _read(socket: zmq.Socket[bytes], handle: Callable[[bytes, bytes], None]) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) == 2:
                handle(frames[0], frames[1])


def freeze_gc() -> None:
    """Leave what exists so far out of all collections and make them rare.

    The engine makes no cycles while it serves; with the defaults a step of a thousand rows would pay for
    several collections, some over the whole heap (tens of milliseconds).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 50, 50)
