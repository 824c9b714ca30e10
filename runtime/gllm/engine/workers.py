"""The engine's link to its workers: they join, are configured, get steps and answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec
import zmq

from gllm.config import Config, EngineConfig
from gllm.engine.borders import NO_SIZES, StepSizes
from gllm.models.config import ModelConfig
from gllm.parallel.layout import RankCoords
from gllm.wire.messages import (
    Capacity,
    Configure,
    DropGrammar,
    GrammarReady,
    Hello,
    PrepareGrammar,
    Ready,
    SchedulerOutput,
    StageReport,
    StepResult,
    Stop,
    WorkerFailed,
    WorkerToEngine,
)
from gllm.wire.transport import decoder, encode, worker_identity


class EngineFailure(Exception):
    """The engine has to end; str(error) is one line for the log and the supervisor."""


class WorkersHang(EngineFailure):
    """A step has no result: the supervisor logs the workers' stacks before it kills them."""


class Workers:
    """All ranks of the group on one ROUTER socket. Raises EngineFailure when a rank fails or leaves.

    Each rank reports its Capacity, is configured and reports Ready. After all have, `on_ready` is called once.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        config: Config,
        model: ModelConfig,
        *,
        report: Callable[[str, str], None],
        on_ready: Callable[[Hello, StepSizes], None],
        on_message: Callable[[StepResult | StageReport | GrammarReady], None],
    ) -> None:
        """on_message(message) gets the messages about steps and grammars of this epoch."""
        self._socket = socket
        self._config = config
        self._model = model
        self._world = config.engine.world_size
        self._sampler = next(
            rank for rank in range(self._world) if RankCoords(config.engine.pp, config.engine.tp, rank).samples
        )
        """The rank that samples tokens from logits."""
        self._report = report
        self._on_ready = on_ready
        self._on_message = on_message
        self._hello: Hello | None = None
        self._capacities: dict[int, int] = {}
        self._ready: set[int] = set()
        self._step_sizes = NO_SIZES
        self._decoder = decoder(WorkerToEngine)

    def stop(self) -> None:
        """Tell all workers to end."""
        for rank in self._capacities:
            with suppress(EngineFailure):
                self._send(rank, encode(Stop()))

    def receive(self, identity: bytes, payload: bytes) -> None:
        """Handle one message."""
        if not identity.endswith(b"@%d" % self._config.epoch):
            return  # From a worker of an earlier epoch: with several nodes all epochs share one port.
        try:
            message = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            raise EngineFailure(f"{identity!r} sent a message that does not decode: {error}") from None
        match message:
            case StepResult(epoch=epoch) | StageReport(epoch=epoch):
                if epoch == self._config.epoch:
                    self._on_message(message)
            case GrammarReady():
                self._on_message(message)
            case Capacity(rank=rank, num_pages=num_pages):
                self._capacities[rank] = num_pages
                if len(self._capacities) == self._world and self._hello is None:
                    self._configure()
            case Ready(rank=rank):
                before = len(self._ready)
                self._ready.add(rank)
                if rank == 0:
                    self._step_sizes = StepSizes(tuple(message.step_sizes), tuple(message.efficient_sizes))
                if before < len(self._ready) == self._world:
                    if self._hello is None:
                        raise EngineFailure("a worker was ready before it was configured")
                    self._on_ready(self._hello, self._step_sizes)
            case WorkerFailed(rank=rank, reason=reason):
                raise EngineFailure(f"worker-{rank} failed: {reason}")

    def send_to_all(self, message: SchedulerOutput) -> None:
        """Send a step to all ranks."""
        payload = encode(message)
        for rank in range(self._world):
            self._send(rank, payload)

    def send_to_sampler(self, message: PrepareGrammar | DropGrammar) -> None:
        """Send to the rank that samples."""
        self._send(self._sampler, encode(message))

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

    def _send(self, rank: int, payload: bytes) -> None:
        try:
            self._socket.send_multipart((worker_identity(rank, self._config.epoch).encode(), payload), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise EngineFailure(f"worker-{rank} has left: {error}") from None


def pool_size(config: EngineConfig, capacities: Iterable[int]) -> int:
    """Return the number of KV pages: the configured one, else the smallest capacity of a rank. Raises ValueError."""
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
    """Return the maximum of prompt + output, in tokens, for model and pool. Raises ValueError if more is configured."""
    context = model.context(config.max_model_len)
    room = num_pages * config.page_size
    if config.max_model_len > room:
        raise ValueError(
            f"max_model_len {config.max_model_len} does not fit the KV pool of {room} tokens "
            f"({num_pages} pages of {config.page_size}): set it to {room} or less, or give the pool more memory"
        )
    return min(context, room)
