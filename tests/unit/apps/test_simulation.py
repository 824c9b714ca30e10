"""The simulator: every request ends, a stage does one thing at a time, and a seed determines the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gllm.apps.bench.report import summarize
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.steady import plan_steady
from gllm.apps.bench.window import Window
from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.cli.main import app
from gllm.apps.simulate.ablation import Grid, capacity, means, run_grid
from gllm.apps.simulate.figures import figures_of
from gllm.apps.simulate.fit import fit_trace
from gllm.apps.simulate.goodput import TARGETS, Curves, rows, run_curves
from gllm.apps.simulate.hardware import Hardware, StageTimes, read_hardware
from gllm.apps.simulate.pipeline import Pipeline
from gllm.apps.simulate.plots import plot_goodput
from gllm.apps.simulate.presets import PRESETS
from gllm.apps.simulate.simulation import Outcome, Simulation
from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.time_model import Work
from gllm.engine.trace import TraceWriter

STAGE = StageTimes(a=1e-3, floor=2e-3, b=2e-5, c=1e-9, d=2e-8, e=5e-6)


def hardware(pp: int, kv_tokens: int = 50_000) -> Hardware:
    return Hardware(stages=(STAGE,) * pp, kv_tokens=kv_tokens)


def run(
    requests: list[BenchRequest], pipeline: Hardware, policy: PolicyName = "token_throttling", **more: Any
) -> Outcome:
    trace, concurrency = more.pop("trace", None), more.pop("concurrency", None)
    config = EngineConfig(model="", policy=policy, enable_prefix_caching=False, **more)
    return Simulation(config, pipeline, requests, seed=1, concurrency=concurrency, trace=trace).run()


@pytest.mark.parametrize("pp", [1, 2, 5])
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_request_gets_every_token(policy: PolicyName, pp: int) -> None:
    requests = make_requests(WORKLOADS["cpu"], 40, seed=3, rate=200.0)
    outcome = run(requests, hardware(pp), policy)
    for request, record in zip(requests, outcome.records, strict=True):
        assert record.ok
        assert record.output_tokens == request.output_len
        assert sum(count for _, count in record.pieces) == request.output_len
        times = [seconds for seconds, _ in record.pieces]
        assert times == sorted(times)
        assert times[0] > pp * STAGE.a
    tokens = sum(len(request.token_ids) + request.output_len - 1 for request in requests)
    assert sum(work.tokens for work in outcome.works) == tokens
    assert 0.0 <= outcome.bubble < 1.0
    assert all(busy <= outcome.present * 1.001 for busy in outcome.busy)


@settings(max_examples=25)
@given(
    policy=st.sampled_from(POLICY_NAMES),
    pp=st.integers(1, 6),
    kv_pages=st.integers(20, 60),
    lengths=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 60), st.floats(0, 0.5)), min_size=1, max_size=25),
    ttft_target=st.sampled_from([0.0, 0.05, 5.0]),
)
def test_unequal_contexts_in_a_tight_pool(
    policy: PolicyName, pp: int, kv_pages: int, lengths: list[tuple[int, int, float]], ttft_target: float
) -> None:
    requests = [BenchRequest(i, [0] * prompt, output, at) for i, (prompt, output, at) in enumerate(lengths)]
    outcome = run(
        requests, hardware(pp, 16 * kv_pages), policy, max_num_seqs=8, max_prefill_tokens=64, ttft_target=ttft_target
    )
    assert [record.output_tokens for record in outcome.records] == [output for _, output, _ in lengths]
    assert all(work.prefill_tokens <= 64 for work in outcome.works)


def test_a_seed_decides_everything() -> None:
    requests = make_requests(WORKLOADS["cpu"], 30, seed=3, rate=100.0)
    first, again = (run(requests, hardware(3), "balanced") for _ in range(2))
    assert first.records == again.records
    assert first.stage_seconds == again.stage_seconds
    config = EngineConfig(model="", policy="balanced", enable_prefix_caching=False)
    other = Simulation(config, hardware(3), requests, seed=2).run()
    assert other.stage_seconds != first.stage_seconds


def test_a_single_decode_takes_the_sum_of_all_delays() -> None:
    pipeline = msgspec.structs.replace(hardware(2), jitter=0.0)
    outcome = run([BenchRequest(0, [0] * 10, 2, 0.0)], pipeline)
    [record] = outcome.records
    way = pipeline.engine + pipeline.dispatch + pipeline.prepare + pipeline.result
    prefill = STAGE.a + STAGE.floor + STAGE.c * 55 + STAGE.e
    assert record.ttft == pytest.approx(way + 2 * prefill + pipeline.transfer + 10 * pipeline.transfer_per_token)
    assert outcome.bubble == pytest.approx(0.5, abs=0.2)


def test_products_take_measured_steps() -> None:
    stage = StageTimes(a=1e-3, b=1e-5, steps=(2e-3, 2e-3, 3e-3))
    seconds = [stage.seconds(Work(prefill_tokens=tokens)) for tokens in (1, 16, 32, 33, 48, 49, 148)]
    assert seconds == pytest.approx([3e-3, 3e-3, 3e-3, 4e-3, 4e-3, 4.01e-3, 5e-3])


def test_the_host_limits_eager_steps_with_prefill() -> None:
    pipeline = msgspec.structs.replace(hardware(2), jitter=0.0, prepare=1e-3, eager=20e-3)
    pipe = Pipeline(pipeline, 0)
    works = [Work(prefill_tokens=100), Work(prefill_tokens=100), Work(decode_rows=100)]
    first, second = zip(*(pipe.send(work, 0.0).intervals for work in works), strict=True)
    assert [elapsed for _, elapsed in first] == pytest.approx([20e-3, 20e-3, STAGE.seconds(works[2])])
    # Both hosts launch at the same time, so the second stage is limited by the activations' arrival.
    assert all(elapsed < 4e-3 for _, elapsed in second)


def test_captured_steps_are_padded_and_prompts_fill_them() -> None:
    sizes = (100, 200, 300)
    pipeline = msgspec.structs.replace(hardware(2), jitter=0.0, step_sizes=sizes)
    assert [pipeline.padded(Work(prefill_tokens=tokens)) for tokens in (1, 100, 101, 301)] == [100, 100, 200, 301]
    assert pipeline.padded(Work(decode_rows=7)) == 7
    requests = make_requests(WORKLOADS["azure"], 60, seed=0, rate=20.0)
    for policy in ("token_throttling", "balanced"):
        works = run(requests, pipeline, policy, max_prefill_tokens=290).works
        mixed = [work.tokens for work in works if work.prefill_tokens and work.decode_rows > 9]
        assert fmean(tokens in sizes for tokens in mixed) > 0.3, policy


def test_the_trace_of_a_simulation(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(path, 3)
    outcome = run(make_requests(WORKLOADS["cpu"], 30, seed=3), hardware(3), "balanced", trace=writer)
    writer.close()
    events = json.loads(path.read_text())
    ends = [0.0] * 3
    busy = [0.0] * 3
    for event in events:
        if event["ph"] == "X":
            assert event["ts"] >= ends[event["tid"]] - 0.11  # times are rounded to a tenth of a microsecond
            ends[event["tid"]] = event["ts"] + event["dur"]
            busy[event["tid"]] += event["dur"] / 1e6
    # The last steps' reports may come after the last token.
    assert busy == pytest.approx(outcome.busy, rel=0.05)
    assert {event["name"] for event in events if event["ph"] == "C"} >= {"waiting tokens", "KV usage"}

    fitted, errors = fit_trace(path, 50_000)
    assert fitted.pp == 3
    assert max(errors) < 0.15
    work = Work(prefill_tokens=200, decode_rows=10, attention=2e4, decode_context=1500, sampled_rows=11)
    for stage in fitted.stages:
        assert stage.seconds(work) == pytest.approx(STAGE.seconds(work), rel=0.2)


def test_a_trace_without_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    TraceWriter(path, 2).close()
    with pytest.raises(ValueError, match="lacks steps"):
        fit_trace(path, 1000)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("pp", [2, 4, 8, 16])
def test_presets_have_all_layers(name: str, pp: int) -> None:
    preset = PRESETS[name]
    split = preset.split(pp)
    assert sum(split) == preset.layers
    assert min(split) >= 1
    assert max(split) - min(split[:-1]) <= 1
    assert preset.hardware(pp).kv_tokens > 4096


@pytest.mark.parametrize("rate", [math.inf, 400.0])
def test_no_more_requests_in_flight_than_asked_for(rate: float) -> None:
    requests = make_requests(WORKLOADS["cpu"], 60, seed=3, rate=rate)
    outcome = run(requests, hardware(2), concurrency=8)
    assert [record.output_tokens for record in outcome.records] == [request.output_len for request in requests]
    assert all(record.start >= request.arrival for record, request in zip(outcome.records, requests, strict=True))
    found = summarize(outcome.records, outcome.duration)
    assert found.max_concurrent_requests == 8
    if math.isinf(rate):
        # An ended request is replaced at once, until none is left.
        ends = sorted(record.end for record in outcome.records)
        assert sorted(record.start for record in outcome.records) == pytest.approx([0.0] * 8 + ends[:52])


def test_figures_of_a_closed_loop_are_those_of_its_window() -> None:
    requests = make_requests(WORKLOADS["cpu"], 80, seed=3)
    outcome = run(requests, hardware(3), concurrency=16)
    steady = figures_of(outcome, load=plan_steady(80, 16))
    assert steady.steady is not None
    window = steady.steady.window
    assert steady.steady.mean_in_flight == pytest.approx(16.0)
    assert steady.summary == summarize(outcome.records, window.duration, window=window)
    inside = outcome.within(window)
    assert 0 < len(inside.works) < len(outcome.works)
    assert all(busy <= window.duration for busy in inside.busy)
    # The tail of a run has few requests, and so more bubbles.
    assert steady.bubble < figures_of(outcome).bubble
    assert outcome.within(Window(-1.0, 2 * outcome.duration)).busy == pytest.approx(outcome.busy)


def test_capacity_is_a_rate_that_saturates() -> None:
    pipeline = hardware(2, 200_000)
    rate = capacity(pipeline, "cpu", 64)
    queues = []
    for load in (0.4, 2.5):
        requests = make_requests(WORKLOADS["cpu"], 200, seed=0, rate=load * rate)
        outcome = run(requests, pipeline, max_num_seqs=64)
        queues.append(figures_of(outcome).summary.ttft.p99)
    assert queues[1] > 3 * queues[0]


def test_throttling_evens_out_micro_batches() -> None:
    """The paper's finding in small: steadier micro-batches and less bubble than Sarathi's chunked prefill."""
    pipeline = PRESETS["qwen2.5-32b-h200"].hardware(4)
    requests = make_requests(WORKLOADS["azure"], 60, seed=0, rate=16.0)
    figures = {
        policy: figures_of(run(requests, pipeline, policy, max_num_seqs=256))
        for policy in ("token_throttling", "balanced", "chunked_prefill")
    }
    assert figures["token_throttling"].bubble < figures["chunked_prefill"].bubble
    assert figures["balanced"].time_cv < figures["chunked_prefill"].time_cv
    assert figures["token_throttling"].summary.tpot.mean < figures["chunked_prefill"].summary.tpot.mean


def test_a_grid_gives_every_policy_the_same_requests() -> None:
    policies: tuple[PolicyName, ...] = ("token_throttling", "balanced")
    grid = Grid(policies=policies, depths=(2,), workloads=("azure",), loads=(0.5,), seeds=2, seconds=2)
    rows = run_grid(grid, processes=1)
    assert len(rows) == 4
    inputs = {row.figures.summary.total_input_tokens for row in rows if row.case.seed == 0}
    assert len(inputs) == 1
    assert [mean.policy for mean in means(rows)] == ["token_throttling", "balanced"]


def test_hardware_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.json"
    path.write_bytes(msgspec.json.encode(hardware(2)))
    assert read_hardware(path) == hardware(2)
    path.write_text('{"stages": []}')
    with pytest.raises(ValueError, match="does not describe"):
        read_hardware(path)


def test_too_long_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        run([BenchRequest(0, [0] * 100, 10, 0.0)], hardware(1, 64))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", "--workload", "cpu", "--num-prompts", "20", *arguments])


def test_the_command(tmp_path: Path) -> None:
    out, trace, pipeline = tmp_path / "out.json", tmp_path / "trace.json", tmp_path / "pipeline.json"
    result = invoke(
        "--policy", "all", "--pp", "2", "-o", str(out), "--trace", str(trace), "--save-hardware", str(pipeline)
    )
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in POLICY_NAMES)
    figures = json.loads(out.read_text())
    assert [entry["policy"] for entry in figures] == list(POLICY_NAMES)
    assert all(entry["completed"] == 20 and math.isfinite(entry["mean_ttft_ms"]) for entry in figures)
    assert invoke("--hardware", str(pipeline)).exit_code == 0
    steady = invoke("--pp", "2", "--steady", "--max-concurrency", "8", "-o", str(out))
    assert steady.exit_code == 0, steady.output
    assert "total tok/s" in steady.output
    [entry] = json.loads(out.read_text())
    assert entry["duration"] == pytest.approx(entry["window_end"] - entry["window_start"])
    assert entry["mean_in_flight"] == pytest.approx(8)
    fitted = invoke("--fit", str(trace), "--policy", "balanced")
    assert fitted.exit_code == 0, fitted.output
    assert "fitted 2 stages" in fitted.output


@pytest.mark.parametrize(
    "arguments",
    [("--policy", "fastest"), ("--preset", "abacus"), ("--fit", "/nowhere"), ("--hardware", "/nowhere"), ("--steady",)],
)
def test_errors_of_the_command(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_data_sets_and_loads_of_bench(tmp_path: Path) -> None:
    trace, out = tmp_path / "azure.csv", tmp_path / "out.json"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:17:{index:02}.9799600,{100 + index},8\n" for index in range(20))
    )
    simulate = ["simulate", "--pp", "2", "-o", str(out), "--dataset-name"]
    flags = ["azure", "--dataset-path", str(trace), "--request-rate", "trace"]
    result = CliRunner().invoke(app, [*simulate, *flags])
    assert result.exit_code == 0, result.output
    [entry] = json.loads(out.read_text())
    assert (entry["total_input_tokens"], entry["backend"]) == (sum(range(100, 120)), "simulation")
    assert entry["duration"] > 19.0  # the times of the file
    staged = CliRunner().invoke(app, [*simulate, "random", "--input-len", "9", "--rate-stages", "5:2,50:1"])
    assert staged.exit_code == 0, staged.output
    refused = CliRunner().invoke(app, [*simulate, "multi-turn"])
    assert "waits for no other one" in refused.output


def test_goodput_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert invoke("--goodput", "ttft:1e6", "tpot:1e6", "-o", str(out)).exit_code != 0, "plain numbers of milliseconds"
    result = invoke("--goodput", "ttft:100000", "tpot:100000", "-o", str(out))
    assert result.exit_code == 0, result.output
    assert "goodput req/s" in result.output
    [figures] = json.loads(out.read_text())
    assert figures["request_goodput"] == figures["request_throughput"] > 0


def test_goodput_curves(tmp_path: Path) -> None:
    """Beyond capacity only targets keep requests within bounds; the figures are means over seeds."""
    curves = Curves(depths=(1,), workloads=("azure",), loads=(0.3, 1.4), fixed=(512,), seeds=1, seconds=8)
    points = run_curves(curves, processes=1)
    assert len(points) == 2 * (1 + len(POLICY_NAMES))
    found = {(point.line, round(point.rate, 3)): point.goodput for point in points}
    low, high = sorted({round(point.rate, 3) for point in points})
    assert found[TARGETS, low] == pytest.approx(low, rel=0.2)
    assert found[TARGETS, high] > 2 * max(found[name, high] for name in POLICY_NAMES)
    assert len(rows(points)) == 2 + len(POLICY_NAMES)
    pytest.importorskip("matplotlib")
    plot_goodput(points, tmp_path / "goodput.png")
    assert (tmp_path / "goodput.png").stat().st_size > 1000


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert invoke("--plots", str(tmp_path)).exit_code == 0
    assert (tmp_path / "microbatches.png").stat().st_size > 1000
