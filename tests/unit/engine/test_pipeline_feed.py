"""Events of the pipeline: what a viewer is told, what is left out, and that it costs nothing without viewers."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakeWorker, make_sequence
from engine_harness import Engine, WorkerThread, converse, settings

from gllm.config import EngineConfig
from gllm.engine import feed as feed_module
from gllm.engine.client.client import EngineClient
from gllm.engine.feed import INTERVAL, PipelineFeed
from gllm.engine.kv_pages import PagePool
from gllm.engine.scheduler import Scheduler
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import EngineStats, StageReport
from gllm.wire.pipeline_events import PipelineEvents


class Run:
    """A scheduler of one stage and a feed, on a clock that a test moves. The wall clock is 1000 s ahead."""

    def __init__(self) -> None:
        self.now = 0.0
        config = EngineConfig(model="", page_size=4)
        self.scheduler = Scheduler(config, PagePool(64, 4), max_model_len=128, clock=lambda: self.now)
        self.worker = FakeWorker(64, 4, config.max_num_seqs)
        self.feed = PipelineFeed(1, clock=lambda: self.now, wall=lambda: 1000.0 + self.now)
        self.feed.watch(True)

    def step(self, seconds: float = 0.01, *, clock_error: float = 0.0) -> None:
        output = self.scheduler.schedule()
        assert output is not None
        self.feed.sent(self.scheduler.newest_batch, output.num_tokens)
        began = self.now
        self.now += seconds
        self.feed.stage(
            StageReport(epoch=0, step=output.step, stage=0, started=1000.0 + began + clock_error, elapsed=seconds)
        )
        self.feed.answered(output.step, self.scheduler.process_result(self.worker.execute(output)))

    def take(self) -> PipelineEvents:
        self.now += self.feed.wait + 0.001
        events = self.feed.take()
        assert events is not None
        return events


def test_the_life_of_a_request() -> None:
    run = Run()
    run.scheduler.add(make_sequence("a", [1, 2, 3, 4, 5], max_tokens=2, stop_token_ids=()))
    run.now = 0.5
    run.step()
    run.step()
    events = run.take()
    assert [(one.prefill_tokens, one.decode_tokens, one.rows) for one in events.sent] == [
        (5, 0, [(1, 5)]),
        (0, 1, [(1, 1)]),
    ]
    assert [(one.step, one.stage, one.start, one.seconds) for one in events.stages] == [
        (1, 0, 1000.5, 0.01),
        (2, 0, 1000.51, 0.01),
    ]
    assert [(one.step, one.time) for one in events.done] == [(1, 1000.51), (2, 1000.52)]
    scheduled, first, end = events.requests
    assert (scheduled.kind, scheduled.id, scheduled.arrival, scheduled.time) == ("scheduled", "a", 1000.0, 1000.5)
    assert (scheduled.prompt_tokens, scheduled.cached_tokens) == (5, 0)
    assert (first.kind, first.number, first.time, first.output_tokens) == ("first_token", 1, 1000.51, 1)
    assert (end.kind, end.time, end.output_tokens, end.reason) == ("end", 1000.52, 2, "length")


def test_a_request_that_is_aborted_ends_too() -> None:
    run = Run()
    run.scheduler.add(make_sequence("a", [1, 2, 3], max_tokens=50, stop_token_ids=()))
    run.step()
    run.take()
    run.scheduler.abort("a")
    assert [(one.kind, one.reason) for one in run.take().requests] == [("end", "abort")]


@pytest.mark.parametrize(("error", "shift"), [(-3.0, 3.0), (5.0, -5.0)])
def test_a_clock_of_another_machine_is_shifted_between_sending_and_report(error: float, shift: float) -> None:
    run = Run()
    run.scheduler.add(make_sequence("a", [1, 2, 3], max_tokens=9, stop_token_ids=()))
    run.step(clock_error=error)
    run.step(clock_error=error)
    events = run.take()
    for sent, ran, done in zip(events.sent, events.stages, events.done, strict=True):
        assert sent.time <= ran.start + 1e-9
        assert ran.start + ran.seconds <= done.time + 1e-9
    assert events.clock_shifts == [pytest.approx(shift)]


def test_a_message_is_bounded_and_counts_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_BATCHES", 3)
    monkeypatch.setattr(feed_module, "MAX_ROWS", 2)
    monkeypatch.setattr(feed_module, "MAX_REQUESTS", 3)
    run = Run()
    for number in range(5):
        run.scheduler.add(make_sequence(f"r{number}", [number, 1, 2], max_tokens=9, stop_token_ids=()))
    for _ in range(8):
        run.step(0.001)
    events = run.take()
    assert len(events.sent) == 3
    assert events.dropped == 5
    assert len(events.stages) == len(events.done) == 3
    assert all(len(one.rows) <= 2 for one in events.sent)
    assert len({one.number for one in events.requests}) <= 3


def test_messages_have_an_interval_and_start_anew_for_the_next_viewer() -> None:
    run = Run()
    assert run.feed.take() is None
    run.scheduler.add(make_sequence("a", [1, 2, 3], max_tokens=9, stop_token_ids=()))
    run.step(0.001)
    assert run.feed.take() is None
    assert 0 < run.feed.wait <= INTERVAL
    run.feed.watch(False)
    run.feed.watch(True)
    assert run.take().sent == []


def test_the_engine_sends_events_only_while_it_is_asked_to(run_dir: str) -> None:
    config = settings(run_dir)
    engine, _ = Engine(config), WorkerThread(config)
    taken: list[tuple[str, PipelineEvents, EngineStats]] = []

    async def ask(client: EngineClient, name: str) -> None:
        async for _ in client.generate(name, [1, 2, 3], SamplingParams(max_tokens=4)):
            pass

    async def talk(client: EngineClient) -> None:
        client.on_events = lambda *message: taken.append(message)
        await ask(client, "unseen")
        assert not taken
        hellos = client.watch(0.6)
        assert hellos == {"": client.hello}
        await asyncio.sleep(0.1)
        await ask(client, "seen")
        while not any(one.kind == "end" for _, events, _ in taken for one in events.requests):
            await asyncio.sleep(0.02)
        assert {one.id for _, events, _ in taken for one in events.requests} - {""} == {"seen"}
        await asyncio.sleep(0.7)
        count = len(taken)
        await ask(client, "late")
        await asyncio.sleep(0.2)
        assert len(taken) == count

    converse(config, talk)
    engine.stop()
