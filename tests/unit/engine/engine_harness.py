"""An EngineLoop in a thread, with a fake worker in another, for tests over real sockets."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import zmq
from engine_fakes import EOS, VOCAB, FakeWorker

from gllm.config import Config, EngineConfig
from gllm.engine.client.client import EngineClient
from gllm.engine.loop import EngineLoop
from gllm.engine.scheduler import Scheduler
from gllm.models.config import ModelConfig, RopeConfig
from gllm.wire.messages import (
    Capacity,
    Configure,
    EngineToWorker,
    GrammarReady,
    PrepareGrammar,
    Ready,
    SchedulerOutput,
    Stop,
)
from gllm.wire.transport import configure_socket, decoder, encode, worker_identity

MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    hidden_size=8,
    intermediate_size=8,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=VOCAB,
    max_position=128,
    rms_norm_eps=1e-5,
    rope=RopeConfig(),
    tie_word_embeddings=True,
    attention_bias=False,
    eos_token_ids=(EOS,),
)


class WorkerThread:
    """The worker's end of the socket. It answers each step at once or, when `held`, one for each `release`."""

    def __init__(self, config: Config, *, num_pages: int = 32, held: bool = False, start_after: float = 0.0) -> None:
        self.config = config
        self.num_pages = num_pages
        self.held = held
        self.start_after = start_after
        self.steps: list[SchedulerOutput] = []
        self.prepared: list[str] = []
        """Grammars that the engine sent for compilation."""
        self.configured: Configure | None = None
        self.stopped = threading.Event()
        self.permits: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """None: answer the next step; bytes: send these instead."""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def release(self, instead: bytes | None = None) -> None:
        self.permits.put(instead)

    def _run(self) -> None:
        time.sleep(self.start_after)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        configure_socket(socket, worker_identity(0, self.config.epoch))
        socket.connect(self.config.worker_address)
        socket.send(encode(Capacity(0, self.num_pages)))
        messages = decoder(EngineToWorker)
        worker = FakeWorker(self.num_pages, self.config.engine.page_size, self.config.engine.max_num_seqs)
        waiting: list[bytes] = []
        while True:
            if socket.poll(5):
                match messages.decode(socket.recv()):
                    case Configure() as configure:
                        self.configured = configure
                        socket.send(encode(Ready(0)))
                    case PrepareGrammar(number=number, grammar=grammar):
                        self.prepared.append(grammar)
                        socket.send(encode(GrammarReady(number, "it is bad" if grammar == "bad" else "")))
                    case SchedulerOutput() as scheduled:
                        self.steps.append(scheduled)
                        waiting.append(encode(worker.execute(scheduled)))
                    case Stop():
                        self.stopped.set()
                        break
            while waiting and (not self.held or not self.permits.empty()):
                answer = waiting.pop(0)
                socket.send((self.permits.get() if self.held else None) or answer)
        context.destroy(linger=0)


class Engine:
    """An EngineLoop in a thread, for one test."""

    def __init__(self, config: Config) -> None:
        self.states: list[tuple[str, str]] = []
        self.status: int | None = None
        self.loop = EngineLoop(config, MODEL, report=lambda state, detail: self.states.append((state, detail)))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.status = self.loop.run()

    @property
    def scheduler(self) -> Scheduler:
        """The engine's scheduler; it exists after a client has connected."""
        assert self.loop.scheduler is not None
        return self.loop.scheduler

    def join(self) -> int | None:
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()
        return self.status

    def stop(self) -> None:
        self.loop.stop()
        assert self.join() == 0


def settings(run_dir: str, **engine: object) -> Config:
    values = {"model": "", "page_size": 4, "max_num_seqs": 4, "max_prefill_tokens": 64, **engine}
    return Config(engine=EngineConfig(**values), run_dir=run_dir, epoch=2)


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[EngineClient]:
    """Yield a connected client, and close it also after an error.

    The garbage collection of an open client waits forever for its sockets to be closed, in the thread that collects.
    This once hung the server of a later test.
    """
    client = EngineClient(config)
    try:
        await client.connect(config.epoch, timeout=20)
        yield client
    finally:
        await client.close()


def converse(config: Config, talk: Callable[[EngineClient], Awaitable[None]], timeout: float = 20) -> None:
    """Run a test's coroutine with a connected client."""

    async def main() -> None:
        async with connected(config) as client:
            await asyncio.wait_for(talk(client), timeout)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true within 10 s")
