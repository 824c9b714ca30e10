"""The worker's message loop: scheduled steps in, results out, in order.

On a CPU a step is done when `launch` returns. On CUDA a second thread collects results, so that the first thread can
launch the next step while the device still computes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import torch
import zmq

from gllm.config import Config
from gllm.parallel.layout import RankCoords
from gllm.wire.curve import keys_of_group, secure_client
from gllm.wire.messages import (
    Capacity,
    Configure,
    DropGrammar,
    EngineToWorker,
    GrammarReady,
    PrepareGrammar,
    Ready,
    SchedulerOutput,
    Stop,
    WorkerFailed,
    WorkerToEngine,
)
from gllm.wire.transport import configure_socket, decoder, encode, worker_identity
from gllm.worker.runner import LaunchedStep, ModelRunner


class EngineLink:
    """A DEALER to the engine's worker socket."""

    def __init__(self, config: Config, rank: int) -> None:
        self.rank = rank
        self._address = config.worker_address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._epoch = config.epoch
        self._keys = keys_of_group() if config.nodes.nnodes > 1 else None
        self._socket = self._connect(worker_identity(rank, config.epoch))
        self._decoder = decoder(EngineToWorker)

    def _connect(self, identity: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        configure_socket(socket, identity)
        if self._keys is not None:
            secure_client(socket, self._keys)
        socket.connect(self._address)
        return socket

    def receive(self) -> EngineToWorker:
        """Wait for the next message, without using the CPU."""
        message: EngineToWorker = self._decoder.decode(self._socket.recv())
        return message

    def send(self, message: WorkerToEngine) -> None:
        self._socket.send(encode(message))

    def sender(self, purpose: str) -> Callable[[WorkerToEngine], None]:
        """Open another connection for another thread: threads do not share sockets."""
        socket = self._connect(worker_identity(self.rank, self._epoch, purpose))
        return lambda message: socket.send(encode(message))

    def close(self) -> None:
        self._context.destroy(linger=1000)


def serve(link: EngineLink, num_pages: int, start: Callable[[Configure], ModelRunner]) -> None:
    """Send the capacity, get the configuration, then run steps until `Stop`."""
    link.send(Capacity(link.rank, num_pages))
    configure = link.receive()
    if isinstance(configure, Stop):
        return
    assert isinstance(configure, Configure), f"expected Configure, got {configure}"
    runner = start(configure)
    # The last kind of graphs takes the steps with prompts.
    graph = runner.graphs[-1] if runner.graphs else None
    link.send(
        Ready(link.rank, list(graph.sizes), list(graph.efficient_sizes)) if graph is not None else Ready(link.rank)
    )
    if runner.device.type == "cuda":
        _serve_overlapped(link, runner)
    else:
        for scheduled in _steps(link, runner):
            _answer(runner.world.coords, runner.launch(scheduled), link.send)


def _steps(link: EngineLink, runner: ModelRunner) -> Iterator[SchedulerOutput]:
    """Yield scheduled steps until `Stop`, and carry out all other messages."""
    senders: list[Callable[[WorkerToEngine], None]] = []

    def compiled(number: int, error: str) -> None:
        """Runs in the grammar thread, which has its own connection."""
        if not senders:
            senders.append(link.sender("grammars"))
        senders[0](GrammarReady(number, error))

    while not isinstance(message := link.receive(), Stop):
        match message:
            case SchedulerOutput():
                yield message
            case PrepareGrammar(number=number, grammar=grammar, http_id=http_id):
                runner.grammars.prepare(number, grammar, compiled, http_id)
            case DropGrammar(number=number):
                runner.grammars.drop(number)


def _answer(coords: RankCoords, step: LaunchedStep, send: Callable[[WorkerToEngine], None]) -> None:
    """Wait for the step. The rank that samples sends the result, one rank of each stage sends the report."""
    report = step.wait()
    if coords.samples:
        send(step.result())
    if coords.tp_rank == 0:
        send(report)


def _serve_overlapped(link: EngineLink, runner: ModelRunner) -> None:
    launched: queue.SimpleQueue[LaunchedStep | None] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def collect() -> None:
        torch.cuda.set_device(runner.device)
        send = link.sender("results")
        try:
            while (step := launched.get()) is not None:
                _answer(runner.world.coords, step, send)
        except Exception as error:
            failures.append(error)
            send(WorkerFailed(link.rank, f"{type(error).__name__}: {error}"))

    collector = threading.Thread(target=collect, name="collector", daemon=True)
    collector.start()
    try:
        for scheduled in _steps(link, runner):
            launched.put(runner.launch(scheduled))
            if failures:
                raise failures[0]
    finally:
        launched.put(None)
        collector.join(timeout=10)
