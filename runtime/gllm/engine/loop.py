"""The engine's event loop: it owns the scheduler, and polls the sockets of gateways and workers."""

from __future__ import annotations

import gc
import logging
import socket as unix
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec
import zmq

from gllm import __version__
from gllm.checkpoint.model_digest import digest_model
from gllm.config import Config
from gllm.engine.borders import StepSizes
from gllm.engine.feed import PipelineFeed
from gllm.engine.gateways import Gateways
from gllm.engine.kv_pages import PagePool
from gllm.engine.scheduler import Scheduler
from gllm.engine.spans import EngineSpans
from gllm.engine.trace import TraceWriter, open_trace
from gllm.engine.workers import EngineFailure, Workers, WorkersHang
from gllm.models.config import ModelConfig
from gllm.tracing import Tracer
from gllm.wire.curve import Keys, keys_of_group, secure_server, start_authenticator
from gllm.wire.messages import GrammarReady, Hello, StageReport, StepResult
from gllm.wire.transport import configure_socket, detect_lost_peers

logger = logging.getLogger("gllm.engine")

HEARTBEAT_SECONDS = 1.0
_MESSAGES_A_TURN = 256
"""Maximum number of messages read from one socket before the next step is scheduled."""
_FLUSH_MILLISECONDS = 1000
_GC_ALLOCATIONS = 100_000
"""Net allocations between collections: far more than a step makes. Reference counting frees the objects of a step."""


class EngineLoop:
    """The loop has two states: while workers join there is no scheduler and gateways wait; then the engine serves.

    Workers have one ROUTER socket. So have the gateway of the group, and gateways of other machines with --engine-port.
    """

    _gateways: Gateways
    _workers: Workers

    def __init__(
        self,
        config: Config,
        model: ModelConfig,
        *,
        report: Callable[[str, str], None] = lambda state, detail: None,
        tracer: Tracer | None = None,
    ) -> None:
        """report(state, detail) reports the engine's state to the supervisor. tracer: None: no spans."""
        self._config = config
        self._model = model
        self._report = report
        self.scheduler: Scheduler | None = None
        """None until all workers are ready."""
        self._trace: TraceWriter | None = None
        self._feed = PipelineFeed(config.engine.pp)
        self._spans = EngineSpans(tracer, config.engine.pp) if tracer is not None else None
        self._stopping = False
        self._wake_reader, self._wake_writer = unix.socketpair()
        self._wake_writer.setblocking(False)

    def stop(self) -> None:
        """Make the loop stop the workers and return 0. Safe in a signal handler and in any thread."""
        self._stopping = True
        with suppress(OSError):  # The buffer is full: the loop wakes up anyway. Or it is closed: the loop has ended.
            self._wake_writer.send(b"\0")

    def run(self) -> int:
        """Serve until `stop` (exit status 0) or a failure (1)."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        keys = authenticator = None
        try:
            nodes, remote = self._config.nodes, self._config.engine_link_address
            if nodes.nnodes > 1 or remote:
                keys = keys_of_group()
                authenticator = start_authenticator(context, keys)
            to_gateways = [self._bind(context, self._config.engine_address)]
            if remote:
                to_gateways.append(self._bind(context, remote, keys))
            to_workers = self._bind(context, self._config.worker_bind_address, keys if nodes.nnodes > 1 else None)
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
            detect_lost_peers(socket)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            hint = "; see --node-addr, --master-port and --engine-port" if address.startswith("tcp") else ""
            raise EngineFailure(f"cannot bind {address}: {error}{hint}") from None
        return socket

    def _serve(self, to_gateways: list[zmq.Socket[bytes]], to_workers: zmq.Socket[bytes]) -> None:
        on_added = self._spans.added if self._spans is not None else lambda seq: None
        gateways = self._gateways = Gateways(to_gateways, self._model, on_added=on_added)
        workers = self._workers = Workers(
            to_workers,
            self._config,
            self._model,
            report=self._report,
            on_ready=self._on_ready,
            on_message=self._on_message,
        )
        poller = zmq.Poller()
        for socket in (*to_gateways, to_workers, self._wake_reader):
            poller.register(socket, zmq.POLLIN)
        next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        try:
            while not self._stopping:
                wait = max(0.0, next_heartbeat - time.monotonic())
                if self._feed.watched:
                    wait = min(wait, self._feed.wait)
                events = dict(poller.poll(int(wait * 1000) + 1))
                if to_workers in events:
                    self._read(to_workers, workers.receive)
                for number, socket in enumerate(to_gateways):
                    if socket in events:
                        self._read(socket, partial(gateways.receive, number))
                # Steps first: a stage may be idle without one; an output only reaches its client a little later.
                self._send_steps()
                gateways.send_outputs()
                if gateways.viewers:
                    self._send_events()
                if time.monotonic() >= next_heartbeat:
                    next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                    self._check_progress()
                    if self._spans is not None:
                        self._spans.collect(time.monotonic())
                    gateways.send_heartbeat()
            workers.stop()
        finally:
            if self._trace is not None:
                self._trace.close()
            if self._spans is not None:
                self._spans.close()

    def _on_ready(self, hello: Hello, step_sizes: StepSizes) -> None:
        """Begin to serve: all workers are ready."""
        engine = self._config.engine
        pool = PagePool(hello.num_pages, hello.page_size, prefix_caching=engine.enable_prefix_caching)
        try:
            scheduler = Scheduler(
                engine,
                pool,
                max_model_len=hello.max_model_len,
                pp=engine.pp,
                epoch=self._config.epoch,
                step_sizes=step_sizes,
            )
            self._trace = open_trace(engine.trace, self._config.epoch, engine.pp)
        except ValueError as error:
            raise EngineFailure(str(error)) from None
        self.scheduler = scheduler
        logger.info(
            "engine ready",
            extra={"pages": hello.num_pages, "max_model_len": hello.max_model_len, "policy": engine.policy},
        )
        self._report("ready", "")
        digest = digest_model(engine.model, weights=False).config if self._config.nodes.engine_port else ""
        self._gateways.open(scheduler, msgspec.structs.replace(hello, version=__version__, model=digest))

    def _on_message(self, message: StepResult | StageReport | GrammarReady) -> None:
        """Handle a worker's message about a step or a grammar of this epoch."""
        scheduler, trace, spans = self.scheduler, self._trace, self._spans
        if scheduler is None:
            return
        match message:
            case StepResult():
                outputs = scheduler.process_result(message)
                if self._feed.watched:
                    self._feed.answered(message.step, outputs)
                self._gateways.merge(outputs)
                if trace is not None:
                    trace.counters(time.time(), scheduler.stats())
                if spans is not None:
                    spans.collect(time.monotonic())
            case StageReport():
                scheduler.observe(message)
                if self._feed.watched:
                    self._feed.stage(message)
                if trace is not None:
                    trace.stage(message, scheduler.work_of(message.step))
                if spans is not None:
                    spans.observe(message)
            case GrammarReady():
                self._gateways.merge(scheduler.process_grammar(message))

    def _send_steps(self) -> None:
        """Send all micro-batches that may be scheduled now to all ranks."""
        scheduler = self.scheduler
        if scheduler is None:
            return
        for message in scheduler.grammars.take_messages():
            self._workers.send_to_sampler(message)
        while (output := scheduler.schedule()) is not None:
            self._workers.send_to_all(output)
            if self._feed.watched:
                self._feed.sent(scheduler.newest_batch, output.num_tokens)
            if self._spans is not None:
                self._spans.scheduled(output)

    def _send_events(self) -> None:
        """Send events of the pipeline to the gateways that have viewers, at intervals."""
        feed = self._feed
        feed.watch(self._gateways.has_viewers(time.monotonic()))
        if feed.watched and (events := feed.take()) is not None:
            self._gateways.send_events(events)

    def _check_progress(self) -> None:
        """Raise WorkersHang after `step_timeout`: a lost peer in a collective, or a hung device, reports nothing."""
        scheduler = self.scheduler
        if scheduler is None or not scheduler.num_in_flight:
            return
        stats, limit = scheduler.stats(), self._config.engine.step_timeout
        if stats.seconds_since_progress > limit:
            oldest = stats.step - stats.num_inflight + 1
            raise WorkersHang(
                f"step {oldest} had no result for {stats.seconds_since_progress:.0f} s "
                f"(--step-timeout {limit:g}): a worker hangs"
            )

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
    """Exclude all existing objects from Python's cyclic garbage collection, and make collections rare.

    The engine makes no cycles while it serves. With Python's defaults a step of a thousand rows would run several
    collections, some of them over the whole heap (tens of milliseconds).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 50, 50)
