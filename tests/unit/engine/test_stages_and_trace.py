"""Busy and bubble shares of timelines computed by hand; trace files are JSON with slices that do not overlap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.meter import StageTracker
from gllm.engine.time_model import Work
from gllm.engine.trace import TraceWriter, read_slices
from gllm.wire.messages import MICROBATCH_EDGES, EngineStats, StageReport

WORK = Work(prefill_tokens=100, decode_rows=7, attention=5050.0, decode_context=900, sampled_rows=8)


def test_a_lone_micro_batch_leaves_the_other_stage_a_bubble() -> None:
    tracker = StageTracker(2, 0.0)
    for step in range(5):
        start = 1.0 * step
        tracker.scheduled(start)
        tracker.observe(start + 0.5, 0, 0.5)
        tracker.observe(start + 1.0, 1, 0.5)
        tracker.answered(start + 1.0, WORK)
    for stage in tracker.stages(5.0, [0.0, 0.0]):
        assert stage.busy == pytest.approx(0.5)
        assert stage.bubble == pytest.approx(0.5)
        assert stage.step_time == 0.5


def test_an_idle_server_has_no_bubble() -> None:
    tracker = StageTracker(1, 0.0)
    tracker.scheduled(10.0)
    tracker.observe(11.0, 0, 1.0)
    tracker.answered(11.0, WORK)
    [stage] = tracker.stages(20.0, [0.1])
    assert stage.busy == pytest.approx(1 / 20)
    assert stage.bubble == pytest.approx(0.0)
    assert stage.prediction_error == 0.1


def test_the_window_forgets() -> None:
    tracker = StageTracker(1, 0.0, window=10.0)
    tracker.scheduled(0.0)
    tracker.observe(1.0, 0, 1.0)
    tracker.answered(4.0, WORK)
    assert tracker.stages(5.0, [0.0])[0].bubble == pytest.approx(0.75)
    [stage] = tracker.stages(100.0, [0.0])
    assert (stage.busy, stage.bubble) == (0.0, 0.0)


def test_tokens_of_micro_batches_are_counted_by_phase() -> None:
    tracker = StageTracker(1, 0.0)
    for tokens in (0, 1, 8, 9, 99_999):
        tracker.scheduled(0.0)
        tracker.answered(0.0, Work(prefill_tokens=tokens, decode_rows=1))
    histogram = tracker.prefill_tokens
    assert len(histogram.counts) == len(MICROBATCH_EDGES) + 1
    assert histogram.counts[:3] == [1, 2, 1]
    assert histogram.counts[-1] == 1
    assert histogram.total == 100_017
    assert tracker.decode_tokens.total == 5


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(-1, 100), st.booleans()), min_size=1, max_size=50
    )
)
def test_shares_are_shares(steps: list[tuple[float, float, float, bool]]) -> None:
    tracker = StageTracker(1, 0.0)
    now = 0.0
    for wait, run, elapsed, answered in steps:
        now += wait
        tracker.scheduled(now)
        now += run
        tracker.observe(now, 0, elapsed)
        if answered:
            tracker.answered(now, WORK)
        [stage] = tracker.stages(now, [0.0])
        assert 0.0 <= stage.busy <= 1.0
        assert 0.0 <= stage.bubble <= 1.0


def events_of(path: Path) -> list[dict[str, Any]]:
    events = json.loads(path.read_text())
    assert isinstance(events, list)
    return events


def test_a_trace_has_a_track_a_stage_and_counters(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(path, 2)
    writer.stage(StageReport(epoch=0, step=1, stage=0, started=100.0, elapsed=0.5), WORK)
    writer.stage(StageReport(epoch=0, step=1, stage=1, started=100.6, elapsed=0.25), WORK)
    writer.stage(StageReport(epoch=0, step=2, stage=0, started=100.5, elapsed=0.1), None)
    writer.stage(StageReport(epoch=0, step=2, stage=7, started=100.5, elapsed=0.1), None)
    writer.counters(101.0, EngineStats(num_waiting_tokens=5, num_running=3, kv_usage=0.5, num_inflight=2))
    writer.close()
    writer.stage(StageReport(epoch=0, step=3, stage=0, started=102.0, elapsed=0.5), WORK)
    writer.close()
    events = events_of(path)
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"stages", "engine", "stage 0", "stage 1"}
    slices = [event for event in events if event["ph"] == "X"]
    assert [(event["tid"], event["ts"], event["dur"]) for event in slices] == [
        (0, 100e6, 0.5e6),
        (1, 100.6e6, 0.25e6),
        (0, 100.5e6, 0.1e6),
    ]
    assert slices[0]["args"]["prefill_tokens"] == 100
    assert slices[0]["args"]["decode_context"] == 900
    counters = {event["name"]: event["args"]["value"] for event in events if event["ph"] == "C"}
    assert counters == {"waiting tokens": 5, "running requests": 3, "KV usage": 0.5, "micro-batches in flight": 2}
    found = [(piece.stage, piece.work, piece.seconds) for piece in read_slices(path)]
    assert found == [(0, WORK, 0.5), (1, WORK, 0.25)]


def test_slices_of_a_stage_never_overlap(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(path, 1)
    for step, (start, elapsed) in enumerate([(0.0, 1.0), (0.9, 1.0), (0.5, 0.1), (3.0, 0.0), (2.0, 5.0)]):
        writer.stage(StageReport(epoch=0, step=step, stage=0, started=start, elapsed=elapsed), WORK)
    writer.close()
    end = 0.0
    for event in events_of(path):
        if event["ph"] == "X":
            assert event["ts"] >= end
            assert event["dur"] >= 0
            end = event["ts"] + event["dur"]


def test_a_trace_is_bounded_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(path, 1, max_events=10)
    for step in range(100):
        writer.stage(StageReport(epoch=0, step=step, stage=0, started=float(step), elapsed=0.5), WORK)
    writer.close()
    assert len(events_of(path)) == 10


def test_a_truncated_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(path, 1)
    writer.stage(StageReport(epoch=0, step=1, stage=0, started=1.0, elapsed=0.5), WORK)
    writer.close()
    path.write_text(path.read_text().removesuffix("\n]\n"))
    assert [(piece.stage, piece.work, piece.seconds) for piece in read_slices(path)] == [(0, WORK, 0.5)]
    path.write_text("[\n{}\n")
    with pytest.raises(ValueError, match="line 2"):
        read_slices(path)


def test_a_full_disk_ends_the_trace_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    writer = TraceWriter("/dev/full", 1)
    for step in range(2000):  # more than the file's buffer
        writer.stage(StageReport(epoch=0, stage=0, step=step, started=step, elapsed=0.5), None)
    writer.close()
    warnings = [record for record in caplog.records if record.name == "gllm.engine"]
    assert [record.message for record in warnings] == ["the trace ends"]


def test_a_trace_that_fails_only_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    writer = TraceWriter("/dev/full", 1)
    writer.close()
    assert [record.message for record in caplog.records] == ["the trace ends"]
