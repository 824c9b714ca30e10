"""The engine's event loop: one poller over the gateways' socket and the workers' socket. It never spins."""

from __future__ import annotations

import logging
import socket as unix
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
import zmq

from gllm.config import Config
from gllm.curve import Gatekeeper, Keys, keys_of_group, secure_server
from gllm.engine.kv_pages import PagePool
from gllm.engine.requests import last_output, make_sequence, refusal
from gllm.engine.results import Outputs as OutputsByClient
from gllm.engine.scheduler import Scheduler
from gllm.engine.startup import context_length, pool_size
from gllm.engine.trace import TraceWriter
from gllm.messages import (
    Abort,
    Capacity,
    Configure,
    Connect,
    EngineStats,
    GatewayToEngine,
    Hello,
    Outputs,
    Ready,
    RequestOutput,
    StageReport,
    StepResult,
    Stop,
    Submit,
    WorkerFailed,
    WorkerToEngine,
)
from gllm.model_config import ModelConfig
from gllm.sampling_params import ParameterError
from gllm.transport import configure_socket, decoder, encode, worker_identity

logger = logging.getLogger("gllm.engine")

HEARTBEAT_SECONDS = 1.0
_MESSAGES_A_TURN = 256
"""Most messages taken from one socket before the next step is planned."""
_FLUSH_MILLISECONDS = 1000


class EngineFailure(Exception):
    """The engine cannot go on; str(e) is one line for the log and the supervisor."""


class EngineLoop:
    """Gateways and workers on two ROUTER sockets, the scheduler between them.

    Workers come first: every rank tells its Capacity, is configured and gets Ready; only then are
    gateways greeted, those that came early too.
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
        self._pp = config.engine.pp
        self._world = config.engine.pp * config.engine.tp
        self._report = report
        self._scheduler: Scheduler | None = None
        """None until the workers are ready."""
        self._trace: TraceWriter | None = None
        self._hello: Hello | None = None
        self._capacities: dict[int, int] = {}
        self._ready: set[int] = set()
        self._clients: dict[bytes, None] = {}
        self._outputs: OutputsByClient = {}
        self._stopping = False
        self._wake_reader, self._wake_writer = unix.socketpair()
        self._wake_writer.setblocking(False)
        self._from_gateway = decoder(GatewayToEngine)
        self._from_worker = decoder(WorkerToEngine)

    def stop(self) -> None:
        """Ask the loop to tell the workers to stop, and to return 0. Safe in a signal handler and in any thread."""
        self._stopping = True
        with suppress(BlockingIOError):  # full: the loop will wake up anyway
            self._wake_writer.send(b"\0")

    def run(self) -> int:
        """Serve until `stop` (exit status 0) or a failure (1)."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            keys = keys_of_group() if self._config.nodes.nnodes > 1 else None
            if keys is not None:
                Gatekeeper(context, keys)
            self._gateways = self._bind(context, self._config.engine_address)
            self._workers = self._bind(context, self._config.worker_bind_address, keys)
            self._serve()
        except EngineFailure as error:
            logger.error("engine failed", extra={"reason": str(error)})
            self._report("failed", str(error))
            return 1
        except Exception as error:
            logger.exception("engine failed")
            self._report("failed", f"{type(error).__name__}: {error}")
            return 1
        finally:
            context.destroy(linger=_FLUSH_MILLISECONDS)
            if self._trace is not None:
                self._trace.close()
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

    def _serve(self) -> None:
        poller = zmq.Poller()
        for socket in (self._gateways, self._workers, self._wake_reader):
            poller.register(socket, zmq.POLLIN)
        next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        while not self._stopping:
            wait = max(0.0, next_heartbeat - time.monotonic())
            events = dict(poller.poll(int(wait * 1000) + 1))
            if self._workers in events:
                self._read(self._workers, self._from_workers)
            if self._gateways in events:
                self._read(self._gateways, self._from_gateways)
            self._send_plans()
            self._send_outputs()
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                self._check_progress()
                self._send_heartbeat()
        for rank in self._capacities:
            with suppress(EngineFailure):
                self._send_worker(rank, encode(Stop()))

    @staticmethod
    def _read(socket: zmq.Socket[bytes], handle: Callable[[bytes, bytes], None]) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) == 2:
                handle(frames[0], frames[1])

    # --- workers -------------------------------------------------------------------------------------

    def _from_workers(self, identity: bytes, payload: bytes) -> None:
        if not identity.endswith(b"@%d" % self._config.epoch):
            return  # A worker of the past, on a port that epochs share.
        try:
            message = self._from_worker.decode(payload)
        except msgspec.DecodeError as error:
            raise EngineFailure(f"{identity!r} sent what does not decode: {error}") from None
        match message:
            case StepResult(epoch=epoch):
                if epoch == self._config.epoch and self._scheduler is not None:
                    self._merge(self._scheduler.process_result(message))
                    if self._trace is not None:
                        self._trace.counters(time.time(), self._scheduler.stats())
            case StageReport(epoch=epoch, step=step):
                if epoch == self._config.epoch and self._scheduler is not None:
                    self._scheduler.observe(message)
                    if self._trace is not None:
                        self._trace.stage(message, self._scheduler.work_of(step))
            case Capacity(rank=rank, num_pages=num_pages):
                self._capacities[rank] = num_pages
                if len(self._capacities) == self._world and self._hello is None:
                    self._configure()
            case Ready(rank=rank):
                self._ready.add(rank)
                if len(self._ready) == self._world and self._scheduler is None:
                    self._begin()
            case WorkerFailed(rank=rank, reason=reason):
                raise EngineFailure(f"worker-{rank} failed: {reason}")

    def _configure(self) -> None:
        engine = self._config.engine
        try:
            num_pages = pool_size(engine, self._capacities.values())
            max_model_len = context_length(engine, self._model, num_pages)
        except ValueError as error:
            raise EngineFailure(str(error)) from None
        self._hello = Hello(self._config.epoch, max_model_len, num_pages, engine.page_size, engine.max_num_seqs)
        self._report("loading", "workers allocate their KV pools")
        configure = encode(Configure(num_pages, max_model_len))
        for rank in self._capacities:
            self._send_worker(rank, configure)

    def _begin(self) -> None:
        hello = self._hello
        if hello is None:
            raise EngineFailure("a worker was ready before it was configured")
        engine = self._config.engine
        pool = PagePool(hello.num_pages, hello.page_size, prefix_caching=engine.enable_prefix_caching)
        try:
            self._scheduler = Scheduler(
                engine, pool, max_model_len=hello.max_model_len, pp=self._pp, epoch=self._config.epoch
            )
            self._trace = self._open_trace()
        except ValueError as error:
            raise EngineFailure(str(error)) from None
        logger.info(
            "engine ready",
            extra={"pages": hello.num_pages, "max_model_len": hello.max_model_len, "policy": engine.policy},
        )
        self._report("ready", "")
        for client in list(self._clients):
            self._send_client(client, hello)

    def _open_trace(self) -> TraceWriter | None:
        """An engine that replaces a dead one writes a file of its own, beside the first one's."""
        path = self._config.engine.trace
        if not path:
            return None
        if self._config.epoch:
            path = f"{path}.{self._config.epoch}"
        try:
            return TraceWriter(path, self._pp)
        except OSError as error:
            raise ValueError(f"--trace {path}: {error.strerror}") from None

    def _send_plans(self) -> None:
        if self._scheduler is None:
            return
        while (plan := self._scheduler.schedule()) is not None:
            payload = encode(plan)
            for rank in range(self._world):
                self._send_worker(rank, payload)

    def _check_progress(self) -> None:
        """A collective whose peer is gone, or a device that hangs, says nothing: only time tells."""
        scheduler = self._scheduler
        if scheduler is None or not scheduler.num_in_flight:
            return
        stats, limit = scheduler.stats(), self._config.engine.step_timeout
        if stats.seconds_since_progress > limit:
            oldest = stats.step - stats.num_inflight + 1
            raise EngineFailure(
                f"step {oldest} had no result for {stats.seconds_since_progress:.0f} s "
                f"(--step-timeout {limit:g}): a worker hangs"
            )

    def _send_worker(self, rank: int, payload: bytes) -> None:
        try:
            self._workers.send_multipart((worker_identity(rank, self._config.epoch).encode(), payload), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise EngineFailure(f"worker-{rank} has left: {error}") from None

    # --- gateways ------------------------------------------------------------------------------------

    def _from_gateways(self, client: bytes, payload: bytes) -> None:
        """No message of a gateway may end the engine."""
        self._clients[client] = None
        try:
            message = self._from_gateway.decode(payload)
        except msgspec.DecodeError as error:
            logger.warning("gateway sent what does not decode", extra={"reason": str(error)})
            self._refuse_undecodable(client, payload, str(error))
            return
        match message:
            case Submit():
                self._submit(client, message)
            case Abort(request_ids=request_ids):
                for request_id in request_ids:
                    if self._scheduler is not None and (output := self._scheduler.abort(request_id, client)):
                        self._merge({client: [output]})
            case Connect():
                if self._scheduler is not None and self._hello is not None:
                    self._send_client(client, self._hello)

    def _submit(self, client: bytes, submit: Submit) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return self._refuse(client, submit.request_id, "the engine is still starting")
        try:
            error = refusal(submit, vocab_size=self._model.vocab_size, max_model_len=scheduler.max_model_len)
            if error is None and submit.request_id in scheduler:
                error = f"a request with the id {submit.request_id!r} is already running"
            if error is None:
                seq = make_sequence(
                    submit, self._model, max_model_len=scheduler.max_model_len, client=client, now=time.monotonic()
                )
                if (last := last_output(seq)) is not None:
                    self._merge({client: [last]})
                else:
                    scheduler.add(seq)
                return None
        except ParameterError as wrong:
            error = str(wrong)
        except Exception as unexpected:
            logger.exception("submit failed", extra={"request_id": submit.request_id})
            error = f"the engine could not take the request: {unexpected}"
        return self._refuse(client, submit.request_id, error)

    def _refuse(self, client: bytes, request_id: str, reason: str) -> None:
        self._merge({client: [RequestOutput(request_id, [], "error", error=reason)]})

    def _refuse_undecodable(self, client: bytes, payload: bytes, reason: str) -> None:
        """A Submit with a bad field still names its request, whose client must not wait for ever."""
        with suppress(msgspec.DecodeError):
            match msgspec.msgpack.decode(payload):
                case ["Submit", str(request_id), *_]:
                    self._refuse(client, request_id, reason)

    def _merge(self, outputs: OutputsByClient) -> None:
        for client, entries in outputs.items():
            self._outputs.setdefault(client, []).extend(entries)

    def _stats(self) -> EngineStats:
        return self._scheduler.stats() if self._scheduler is not None else EngineStats()

    def _send_outputs(self) -> None:
        if not self._outputs:
            return
        outputs, self._outputs = self._outputs, {}
        stats = self._stats()
        for client, entries in outputs.items():
            self._send_client(client, Outputs(entries, stats))

    def _send_heartbeat(self) -> None:
        if self._scheduler is not None:
            heartbeat = Outputs([], self._stats())
            for client in list(self._clients):
                self._send_client(client, heartbeat)

    def _send_client(self, client: bytes, message: Hello | Outputs) -> None:
        try:
            self._gateways.send_multipart((client, encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._forget(client, str(error))

    def _forget(self, client: bytes, reason: str) -> None:
        """The client is gone: nobody will read what its requests produce."""
        self._clients.pop(client, None)
        if self._scheduler is not None:
            aborted = self._scheduler.requests_of(client)
            for request_id in aborted:
                self._scheduler.abort(request_id)
            logger.info("gateway left", extra={"aborted": len(aborted), "reason": reason})
