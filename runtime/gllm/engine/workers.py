"""The engine's side towards the workers: they join, are configured, get plans, and answer."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec
import zmq

from gllm.config import Config, EngineConfig
from gllm.engine.kv_pages import PagePool
from gllm.engine.results import OutputsByClient
from gllm.engine.scheduler import Scheduler
from gllm.engine.trace import TraceWriter
from gllm.models.config import ModelConfig
from gllm.parallel.layout import RankCoords
from gllm.wire.messages import (
    Capacity,
    Configure,
    GrammarReady,
    Hello,
    Ready,
    StageReport,
    StepResult,
    Stop,
    WorkerFailed,
    WorkerToEngine,
)
from gllm.wire.transport import decoder, encode, worker_identity

logger = logging.getLogger("gllm.engine")

_WRONG_PATH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})
"""Errors of open() that the user mends on the command line."""


class EngineFailure(Exception):
    """The engine cannot go on; str(e) is one line for the log and the supervisor."""


class WorkersHang(EngineFailure):
    """A step has no result: what the workers do meanwhile is worth a look, before they are killed."""


class Workers:
    """All ranks of the group on one ROUTER socket. Its errors are EngineFailure: without a rank there is no group.

    Every rank tells its Capacity, is configured and gets Ready; then there is a scheduler, and `on_ready` gets it.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        config: Config,
        model: ModelConfig,
        *,
        report: Callable[[str, str], None],
        on_ready: Callable[[Scheduler, Hello], None],
        on_outputs: Callable[[OutputsByClient], None],
    ) -> None:
        self._socket = socket
        self._config = config
        self._model = model
        self._world = config.engine.world_size
        self._sampler = next(
            rank for rank in range(self._world) if RankCoords(config.engine.pp, config.engine.tp, rank).samples
        )
        """The rank that turns logits into tokens."""
        self._report = report
        self._on_ready = on_ready
        self._on_outputs = on_outputs
        self.scheduler: Scheduler | None = None
        """None until the workers are ready."""
        self._trace: TraceWriter | None = None
        self._hello: Hello | None = None
        self._capacities: dict[int, int] = {}
        self._ready: set[int] = set()
        self._decoder = decoder(WorkerToEngine)

    def stop(self) -> None:
        """Tell every worker to end."""
        for rank in self._capacities:
            with suppress(EngineFailure):
                self._send(rank, encode(Stop()))

    def close(self) -> None:
        """Complete the trace."""
        if self._trace is not None:
            self._trace.close()

    def receive(self, identity: bytes, payload: bytes) -> None:
        """Handle one message."""
        if not identity.endswith(b"@%d" % self._config.epoch):
            return  # A worker of the past, on a port that epochs share.
        try:
            message = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            raise EngineFailure(f"{identity!r} sent what does not decode: {error}") from None
        match message:
            case StepResult(epoch=epoch):
                if epoch == self._config.epoch and self.scheduler is not None:
                    self._on_outputs(self.scheduler.process_result(message))
                    if self._trace is not None:
                        self._trace.counters(time.time(), self.scheduler.stats())
            case GrammarReady():
                if self.scheduler is not None:
                    self._on_outputs(self.scheduler.process_grammar(message))
            case StageReport(epoch=epoch, step=step):
                if epoch == self._config.epoch and self.scheduler is not None:
                    self.scheduler.observe(message)
                    if self._trace is not None:
                        self._trace.stage(message, self.scheduler.work_of(step))
            case Capacity(rank=rank, num_pages=num_pages):
                self._capacities[rank] = num_pages
                if len(self._capacities) == self._world and self._hello is None:
                    self._configure()
            case Ready(rank=rank):
                self._ready.add(rank)
                if len(self._ready) == self._world and self.scheduler is None:
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
        self._hello = Hello(
            epoch=self._config.epoch,
            max_model_len=max_model_len,
            num_pages=num_pages,
            page_size=engine.page_size,
            max_num_seqs=engine.max_num_seqs,
        )
        self._report("loading", "workers allocate their KV pools")
        configure = encode(Configure(num_pages, max_model_len))
        for rank in self._capacities:
            self._send(rank, configure)

    def _begin(self) -> None:
        hello = self._hello
        if hello is None:
            raise EngineFailure("a worker was ready before it was configured")
        engine = self._config.engine
        pool = PagePool(hello.num_pages, hello.page_size, prefix_caching=engine.enable_prefix_caching)
        try:
            scheduler = self.scheduler = Scheduler(
                engine, pool, max_model_len=hello.max_model_len, pp=engine.pp, epoch=self._config.epoch
            )
            self._trace = self._open_trace()
        except ValueError as error:
            raise EngineFailure(str(error)) from None
        logger.info(
            "engine ready",
            extra={"pages": hello.num_pages, "max_model_len": hello.max_model_len, "policy": engine.policy},
        )
        self._report("ready", "")
        self._on_ready(scheduler, hello)

    def _open_trace(self) -> TraceWriter | None:
        """An engine that replaces a dead one writes a file of its own, beside the first one's.

        Raises ValueError for a path that is wrong from the start. What stops a server that has served, or comes and
        goes, such as a full disk, costs only the trace.
        """
        path = self._config.engine.trace
        if not path:
            return None
        if self._config.epoch:
            path = f"{path}.{self._config.epoch}"
        try:
            return TraceWriter(path, self._config.engine.pp)
        except OSError as error:
            if not self._config.epoch and error.errno in _WRONG_PATH:
                raise ValueError(f"--trace {path}: {error.strerror}") from None
            logger.warning("no trace", extra={"path": path, "reason": error.strerror})
            return None

    def send_plans(self) -> None:
        """Send every micro-batch that may be built now to every rank."""
        if self.scheduler is None:
            return
        for message in self.scheduler.grammars.take_messages():
            self._send(self._sampler, encode(message))
        while (plan := self.scheduler.schedule()) is not None:
            payload = encode(plan)
            for rank in range(self._world):
                self._send(rank, payload)

    def check_progress(self) -> None:
        """A collective whose peer is gone, or a device that hangs, says nothing: only time tells."""
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

    def _send(self, rank: int, payload: bytes) -> None:
        try:
            self._socket.send_multipart((worker_identity(rank, self._config.epoch).encode(), payload), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise EngineFailure(f"worker-{rank} has left: {error}") from None


def pool_size(config: EngineConfig, capacities: Iterable[int]) -> int:
    """KV pages: what was asked for, else what the smallest rank can hold. Raises ValueError if that is too little."""
    least = min(capacities)
    if config.num_pages > least:
        raise ValueError(f"num_pages {config.num_pages} does not fit the memory budget, which has room for {least}")
    num_pages = config.num_pages or least
    if num_pages < 1:
        raise ValueError(
            "the memory budget has no room for a single KV page: raise kv_cache_memory or gpu_memory_utilization"
        )
    return num_pages


def context_length(config: EngineConfig, model: ModelConfig, num_pages: int) -> int:
    """Longest prompt + output in tokens that model and pool allow; ValueError if the user asked for more."""
    context = model.context(config.max_model_len)
    room = num_pages * config.page_size
    if config.max_model_len > room:
        raise ValueError(
            f"max_model_len {config.max_model_len} does not fit the KV pool of {room} tokens "
            f"({num_pages} pages of {config.page_size}): set it to {room} or less, or give the pool more memory"
        )
    return min(context, room)
