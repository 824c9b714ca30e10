"""Engines fail: clients see a pause, then the tokens of a run without failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from engine_fakes import EOS, generate
from engine_harness import Engine, WorkerThread, connected, settings, until

from gllm.config import Config
from gllm.engine.client.client import EngineClient
from gllm.engine.client.resubmit import MAX_LOSSES, RequestRecord
from gllm.engine.client.stream import EngineError, OutputStream
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import RequestOutput, Submit
from gllm.wire.origin import Origin

ENDLESS = SamplingParams(max_tokens=40, ignore_eos=True, seed=0)


class Engines:
    """A series of engines, each with the next epoch and a worker that computes one step for each release."""

    def __init__(self, run_dir: str) -> None:
        self.first = settings(run_dir)
        self.config = self.first
        self.client = EngineClient(self.first)
        self._start()

    def _start(self) -> None:
        self.engine = Engine(self.config)
        self.worker = WorkerThread(self.config, held=True)

    async def connect(self) -> None:
        await self.client.connect(self.config.epoch, timeout=20)

    async def replace(self) -> None:
        """End the engine and connect to the next one."""
        self.client.pause("the engine was killed")
        await asyncio.to_thread(self.engine.stop)
        self.config = msgspec.structs.replace(self.config, epoch=self.config.epoch + 1)
        self._start()
        await self.connect()

    async def steps(self, count: int) -> None:
        """Let the worker answer `count` steps."""
        for _ in range(count):
            self.worker.release()
        await until(self.worker.permits.empty)
        await asyncio.sleep(0.05)

    def run_free(self) -> None:
        for _ in range(5000):
            self.worker.release()


def play(run_dir: str, scenario: Callable[[Engines], Awaitable[None]]) -> None:
    async def main() -> None:
        engines = Engines(run_dir)
        try:
            await engines.connect()
            await asyncio.wait_for(scenario(engines), 30)
        finally:
            await engines.client.close()
            await asyncio.to_thread(engines.engine.stop)

    asyncio.run(main())


async def collect(stream: OutputStream) -> list[RequestOutput]:
    return [output async for output in stream]


def tokens(outputs: list[RequestOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def test_streams_continue_with_the_same_tokens_over_three_engines(run_dir: str) -> None:
    prompts = [[number, 3, number] for number in range(6)]

    async def scenario(engines: Engines) -> None:
        streams = [engines.client.generate(str(n), prompt, ENDLESS) for n, prompt in enumerate(prompts)]
        reading = [asyncio.create_task(collect(stream)) for stream in streams]
        await engines.steps(5)
        await engines.replace()
        await engines.steps(7)
        await engines.replace()
        engines.run_free()
        for prompt, read in zip(prompts, reading, strict=True):
            outputs = await read
            assert tokens(outputs) == generate(prompt, ENDLESS, 128)
            assert outputs[-1].finish_reason == "length"
            assert sum(output.queue_time > 0 for output in outputs) == 1
        assert engines.client.num_live == 0

    play(run_dir, scenario)


def test_limits_stop_tokens_and_logprobs_are_those_of_one_run(run_dir: str) -> None:
    until_stop = SamplingParams(max_tokens=40, stop_token_ids=(EOS,))
    prompt = next(p for p in ([i, 1] for i in range(1000)) if 8 < len(generate(p, until_stop, 128)) < 30)
    sampling = SamplingParams(max_tokens=40, seed=0, logprobs=0, prompt_logprobs=0)
    expected = generate(prompt, msgspec.structs.replace(sampling, stop_token_ids=(EOS,)), 128)

    async def scenario(engines: Engines) -> None:
        stream = engines.client.generate("a", prompt, sampling)
        reading = asyncio.create_task(collect(stream))
        await engines.steps(4)
        await engines.replace()
        engines.run_free()
        outputs = await reading
        assert tokens(outputs) == expected
        assert outputs[-1].finish_reason == "stop"
        assert outputs[-1].stop_token_id == EOS
        assert [entry.token_id for output in outputs for entry in output.logprobs or ()] == expected
        scored = [output.prompt_logprobs for output in outputs if output.prompt_logprobs is not None]
        assert [len(entries) for entries in scored] == [2]

    play(run_dir, scenario)


def test_requests_without_an_engine_wait_for_the_next(run_dir: str) -> None:
    async def scenario(engines: Engines) -> None:
        engines.client.pause("killed")
        assert engines.client.hello is None
        assert engines.client.limits is not None
        stream = engines.client.generate("a", [1, 2], ENDLESS)
        left = engines.client.generate("left", [1, 2], ENDLESS)
        await left.aclose()
        await engines.replace()
        engines.run_free()
        assert tokens(await collect(stream)) == generate([1, 2], ENDLESS, 128)
        assert engines.engine.loop.scheduler is not None

    play(run_dir, scenario)


def test_a_request_that_ends_engine_after_engine_fails_and_others_continue(run_dir: str) -> None:
    """The engine fails whenever it has the poison; the client does not know which request it is."""
    prompts = {str(n): [n, 5] for n in range(4)}

    async def scenario(engines: Engines) -> None:
        streams = {name: engines.client.generate(name, prompt, ENDLESS) for name, prompt in prompts.items()}
        poison = engines.client.generate("poison", [9, 9], ENDLESS)
        reading = {name: asyncio.create_task(collect(stream)) for name, stream in streams.items()}
        await engines.steps(3)
        recoveries = 0
        while engines.client.num_live > len(prompts):
            assert recoveries < 20
            # There is no token while the engine has the poison; a suspect that is submitted alone gets its token.
            while engines.client.requests.trial not in (None, poison):
                await engines.steps(1)
            await engines.replace()
            recoveries += 1
        with pytest.raises(EngineError, match="4 times in a row while it had this request"):
            await collect(poison)
        engines.run_free()
        for name, prompt in prompts.items():
            assert tokens(await reading[name]) == generate(prompt, ENDLESS, 128)

    play(run_dir, scenario)


def test_without_a_next_engine_waiting_requests_fail(run_dir: str) -> None:
    async def scenario(engines: Engines) -> None:
        stream = engines.client.generate("a", [1, 2], ENDLESS)
        engines.client.pause("killed")
        engines.client.engine_down("it did not come back")
        with pytest.raises(EngineError, match="did not come back"):
            await collect(stream)
        with pytest.raises(EngineError, match="not ready"):
            engines.client.generate("b", [1], ENDLESS)
        await engines.connect()

    play(run_dir, scenario)


def test_a_hung_step_ends_the_engine_with_its_name(run_dir: str) -> None:
    async def main() -> None:
        config: Config = settings(run_dir, step_timeout=0.5)
        engine, worker = Engine(config), WorkerThread(config, held=True)
        async with connected(config) as client:
            await asyncio.sleep(1.5)
            assert engine.status is None, "an idle engine has no step to miss"
            client.generate("a", [1, 2], ENDLESS)
            await until(lambda: engine.status is not None)
        assert engine.status == 1
        assert len(worker.steps) == 2
        assert engine.states[-1][0] == "hung"
        assert "step 1 had no result for" in engine.states[-1][1]
        assert "--step-timeout 0.5" in engine.states[-1][1]

    asyncio.run(main())


def test_usage_is_that_of_the_first_computation() -> None:
    origin = Origin("its-id", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    record = RequestRecord(Submit(request_id="a", token_ids=[1, 2], sampling=SamplingParams(seed=1), origin=origin))
    assert record.to_submit().num_generated == 0
    first = RequestOutput(request_id="a", token_ids=[5], num_cached_tokens=16, queue_time=1.0)
    record.receive(first)
    assert first.queue_time == pytest.approx(1.0, abs=0.1)
    for _ in range(MAX_LOSSES):
        record.on_engine_lost()
        message = record.to_submit()
        assert (message.token_ids, message.num_generated) == ([1, 2, 5], 1)
        assert message.origin == origin, "the trace goes on in the next engine"
    assert not record.exhausted
    last = RequestOutput(request_id="a", token_ids=[6], finish_reason="length", num_cached_tokens=32)
    record.receive(last)
    assert last.num_cached_tokens == 16
    assert record.losses == 0
