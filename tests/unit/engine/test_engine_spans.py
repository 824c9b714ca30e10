"""The engine's spans: which steps and stages they cover, and when they are sent, as a collector decodes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.collector import Collector, ReceivedSpan
from gllm.config import EngineConfig
from gllm.engine.kv_pages import PagePool
from gllm.engine.scheduler import Scheduler
from gllm.engine.sequence import Sequence
from gllm.engine.spans import LATE_SECONDS, EngineSpans
from gllm.sampling_params import SamplingParams
from gllm.tracing import Tracer
from gllm.wire.messages import StageReport, StepResult
from gllm.wire.origin import Origin

PP = 2
TRACE = "0af7651916cd43dd8448eb211c80319c"
ORIGIN = Origin("an-id", f"00-{TRACE}-b7ad6b7169203331-01")


class Engine:
    """A scheduler whose stages take a second for each step; the clock of the spans is the scheduler's."""

    def __init__(self, tracer: Tracer) -> None:
        self.now = 0.0
        config = EngineConfig(model="", policy="chunked_prefill", max_prefill_tokens=8)
        pool = PagePool(64, 4, prefix_caching=False)
        self.scheduler = Scheduler(config, pool, max_model_len=128, pp=PP, clock=lambda: self.now)
        self.spans = EngineSpans(tracer, PP)

    def add(self, name: str, *, prompt: int, output: int, origin: Origin = ORIGIN) -> Sequence:
        sampling = SamplingParams(max_tokens=output, ignore_eos=True, seed=0)
        seq = Sequence(name, [1] * prompt, sampling, max_model_len=128, client=b"c", origin=origin)
        self.scheduler.add(seq)
        self.spans.added(seq)
        return seq

    def step(self, *, reports: bool = True) -> bool:
        """Run one step alone; return whether there was one."""
        output = self.scheduler.schedule()
        if output is None:
            return False
        self.spans.scheduled(output)
        for stage in range(PP):
            if reports:
                self.spans.observe(StageReport(epoch=0, step=output.step, stage=stage, started=self.now, elapsed=1.0))
            self.now += 1.0
        tokens = [5] * sum(output.samples)
        self.scheduler.process_result(StepResult(epoch=0, step=output.step, token_ids=tokens, elapsed=1.0))
        self.spans.collect(self.now)
        return True

    def run(self) -> None:
        while self.step():
            pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def engine(collector: Collector) -> Iterator[Engine]:
    tracer = Tracer(collector.url + "/v1/traces", "engine")
    made = Engine(tracer)
    made.tracer = tracer  # type: ignore[attr-defined]
    return made


def sent(engine: Engine, collector: Collector) -> dict[str, ReceivedSpan]:
    engine.tracer.close()  # type: ignore[attr-defined]
    return {span.name: span for span in collector.of(TRACE)}


def test_chunks_and_decodes(engine: Engine, collector: Collector) -> None:
    engine.add("one", prompt=20, output=4)
    engine.add("not traced", prompt=3, output=4, origin=Origin("other"))
    engine.run()
    spans = sent(engine, collector)
    assert len(collector.spans) == len(spans) == 1 + 2 * PP, "none for a step, none for the other request"
    first, last = spans["prefill stage 0"], spans["prefill stage 1"]
    assert [event["gllm.tokens"] for event in first.events] == [8, 8, 4]
    assert (first.attributes["gllm.steps"], first.attributes["gllm.busy_seconds"]) == (3, 3.0)
    assert (first.begin, first.end) == (0.0, 5.0), "steps begin at 0, 2 and 4"
    assert (last.begin, last.end) == (1.0, 6.0)
    assert spans["decode stage 1"].attributes["gllm.steps"] == 3
    assert spans["engine"].attributes["gen_ai.usage.output_tokens"] == 4
    assert spans["engine"].attributes["http.request.header.x-request-id"] == ["an-id"]
    assert spans["engine"].parent == "b7ad6b7169203331"


def test_late_reports_are_waited_for_and_then_not(engine: Engine, collector: Collector) -> None:
    engine.add("one", prompt=4, output=1)
    assert engine.step(reports=False)
    assert engine.spans._live, "its reports are missing"
    engine.spans.collect(engine.now + LATE_SECONDS + 0.1)
    assert not engine.spans._live
    assert set(sent(engine, collector)) == {"engine"}


def test_an_aborted_request_ends_its_span(engine: Engine, collector: Collector) -> None:
    engine.add("one", prompt=4, output=30)
    engine.step()
    engine.scheduler.abort("one")
    engine.spans.collect(engine.now)
    assert sent(engine, collector)["engine"].attributes["gen_ai.usage.output_tokens"] == 1


def test_running_requests_are_sent_at_the_end(engine: Engine, collector: Collector) -> None:
    engine.add("one", prompt=4, output=30)
    engine.step()
    engine.spans.close()
    assert "prefill stage 1" in sent(engine, collector)
