"""Steady load: the window of a closed loop, what counts in it, the roofline, and a run over sockets."""

from __future__ import annotations

import heapq
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fixtures.completions_server import TinyServer, serving
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.report import summarize
from gllm.apps.bench.roofline import GPUS, Gpus, parse_gpu, roofline, work_in
from gllm.apps.bench.steady import measure_steady, plan_steady
from gllm.apps.bench.window import (
    WHOLE_RUN,
    Window,
    check_requests,
    default_requests,
    mean_in_flight,
    steady_window,
    tokens_in,
)
from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.cli.main import app
from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.apps.simulate.simulation import Simulation
from gllm.config import EngineConfig
from gllm.models.families import load_model_config

SHAPES = Path(__file__).parents[3] / "benchmarks" / "shapes"


def closed_loop(lengths: list[tuple[int, int]], concurrency: int, step: float = 0.5) -> list[RequestRecord]:
    """Return a perfect closed loop: each request in flight gets one token every `step` seconds, from one step on."""
    slots = [0.0] * concurrency
    records = []
    for index, (prompt, output) in enumerate(lengths):
        start = heapq.heappop(slots)
        pieces = [(step * (token + 1), 1.0) for token in range(output)]
        records.append(
            RequestRecord(
                index=index,
                prompt_tokens=prompt,
                output_tokens=output,
                start=start,
                pieces=pieces,
                latency=step * output,
                finish_reason="length",
            )
        )
        heapq.heappush(slots, start + step * output)
    return records


loops = st.integers(1, 6).flatmap(
    lambda concurrency: st.tuples(
        st.just(concurrency),
        st.lists(
            st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=3 * concurrency, max_size=3 * concurrency + 40
        ),
    )
)


@given(loops)
def test_a_perfect_loop_is_full_and_has_the_rate_of_its_steps(loop: tuple[int, list[tuple[int, int]]]) -> None:
    concurrency, lengths = loop
    records = closed_loop(lengths, concurrency)
    try:
        window = steady_window(records)
    except ValueError:
        return
    ended = [record for record in records if record.end <= window.start]
    assert 5 * len(ended) >= len(records)
    assert 5 * sum(record.end < window.start for record in records) < len(records)
    assert all(record.start <= window.end for record in records)
    assert mean_in_flight(records, window) == pytest.approx(concurrency)
    # Borders are steps: the window holds whole ones, each with a token for every request in flight.
    summary = summarize(records, window.duration, window=window)
    assert summary.output_throughput == pytest.approx(concurrency / 0.5)
    assert summary.itl.mean == pytest.approx(500.0) or summary.itl.mean == 0.0
    assert summary.max_concurrent_requests == concurrency


@given(loops, st.lists(st.floats(0.0, 30.0), max_size=4))
def test_windows_in_a_row_count_everything_once(loop: tuple[int, list[tuple[int, int]]], borders: list[float]) -> None:
    records = closed_loop(loop[1], loop[0])
    marks = [float("-inf"), *sorted(borders), float("inf")]
    windows = [Window(start, end) for start, end in itertools.pairwise(marks)]
    counted = [tokens_in(records, window) for window in windows]
    assert sum(prompts for prompts, _ in counted) == sum(prompt for prompt, _ in loop[1])
    assert sum(outputs for _, outputs in counted) == sum(output for _, output in loop[1])
    summaries = [summarize(records, 1.0, window=window) for window in windows]
    assert sum(summary.completed for summary in summaries) == len(records)
    parts, whole = [work_in(records, window) for window in windows], work_in(records, WHOLE_RUN)
    for field in ("prompt_tokens", "output_tokens", "decoded_tokens", "pairs", "decode_context"):
        assert sum(getattr(part, field) for part in parts) == pytest.approx(getattr(whole, field))


def test_window_and_figures_of_five_requests() -> None:
    # Two in flight, a token each second: 0 and 1 start at 0; 2 at 1, 3 at 3, 4 at 4.
    records = closed_loop([(10, 1), (20, 4), (30, 2), (40, 3), (50, 2)], 2, step=1.0)
    assert [record.start for record in records] == [0.0, 0.0, 1.0, 3.0, 4.0]
    found = measure_steady(records, plan_steady(5, 2))
    assert found.window == Window(1.0, 4.0)
    summary = found.summary
    # First tokens of 2 (at 2 s) and 3 (at 4 s); outputs at 2, 3, 4 s, two each; 1 ends at 4, 2 at 3.
    assert (summary.total_input_tokens, summary.total_output_tokens, summary.completed) == (70, 6, 2)
    assert summary.output_throughput == pytest.approx(2.0)
    assert summary.total_token_throughput == pytest.approx(76 / 3)
    assert summary.ttft.mean == pytest.approx(1000.0)
    assert summary.e2el.mean == pytest.approx(3000.0)
    assert found.mean_in_flight == pytest.approx(2.0)
    assert summarize(records, 6.0, {"e2el": 3000.0}, found.window).request_goodput == pytest.approx(2 / 6)
    assert summarize(records, 6.0, {"e2el": 1000.0}, found.window).request_goodput == 0.0


def test_tpot_is_that_of_requests_inside_the_window() -> None:
    """Gaps of 9 s before the window and of 1 s in it: the ramp is in no figure."""

    def request(times: list[float]) -> RequestRecord:
        pieces = [(time, 1.0) for time in times]
        return RequestRecord(index=0, prompt_tokens=1, output_tokens=len(times), latency=times[-1], pieces=pieces)

    window = Window(19.0, 30.0)
    across, inside = request([1.0, 10.0, 19.0, 20.0, 21.0]), request([20.0, 21.0, 22.0])
    assert summarize([across, inside], 11.0, window=window).tpot.mean == pytest.approx(1000.0)
    assert summarize([across], 11.0, window=window).tpot.mean == 0.0
    assert summarize([across], 11.0).tpot.mean == pytest.approx(20e3 / 4)


def test_a_short_run_has_the_figures_of_a_long_one() -> None:
    """Ramp and tail are much of a short run: its rate over the whole run is far below that of its window."""
    stage = StageTimes(a=1e-3, floor=2e-3, b=2e-5, c=1e-9, d=2e-8, e=5e-6)
    pipeline = Hardware(stages=(stage, stage), kv_tokens=200_000)
    config = EngineConfig(model="", policy="balanced", enable_prefix_caching=False)

    def run(count: int) -> list[RequestRecord]:
        requests = make_requests(WORKLOADS["cpu"], count)
        return Simulation(config, pipeline, requests, concurrency=24).run().records

    records = run(60)
    short, long = (measure_steady(found, plan_steady(len(found), 24)).summary for found in (records, run(240)))
    assert short.tpot.mean == pytest.approx(long.tpot.mean, rel=0.03)
    assert short.output_throughput == pytest.approx(long.output_throughput, rel=0.04)
    whole = summarize(records, max(record.end for record in records))
    assert whole.output_throughput < 0.85 * long.output_throughput


def test_failed_requests_end_but_do_not_count() -> None:
    records = closed_loop([(10, 2)] * 10, 2, step=1.0)
    records[4].error = "HTTP 500"
    window = steady_window(records)
    assert window == Window(2.0, 8.0)
    summary = summarize(records, window.duration, window=window)
    assert (summary.completed, summary.failed) == (5, 1)
    assert summary.total_output_tokens == 10


def test_too_few_requests() -> None:
    assert check_requests(100, 40) == ""
    assert "99 " not in check_requests(99, 40)
    assert "--num-prompts to 100" in check_requests(99, 40)
    with pytest.raises(ValueError, match=r"--num-prompts 59 is too few .* set --num-prompts to 100"):
        check_requests(59, 40)
    with pytest.raises(ValueError, match="needs --max-concurrency"):
        plan_steady(100, None)
    assert default_requests(1000, 64) == 1000
    assert default_requests(400, 384) == 960
    with pytest.raises(ValueError, match="window is empty"):
        steady_window(closed_loop([(1, 4)] * 3, 3))


def test_a_window_without_a_whole_request_says_so() -> None:
    records = closed_loop([(10, 5), (10, 9), (10, 50), (10, 50)], 2, step=1.0)
    found = measure_steady(records, plan_steady(5, 2), {"ttft": 2000.0})
    assert found.window == Window(5.0, 9.0)
    assert found.summary.completed == 1
    assert found.summary.request_goodput is None
    assert "TPOT and goodput are not known" in found.warning


def test_gpus_by_name() -> None:
    assert parse_gpu("H200") == (GPUS["H200"], 1)
    assert parse_gpu("8xh100") == (GPUS["H100"], 8)
    for wrong in ("", "2xAbacus", "0xH200", "2*H200"):
        with pytest.raises(ValueError, match="--gpu must be"):
            parse_gpu(wrong)


def test_work_of_a_request() -> None:
    record = RequestRecord(
        index=0, prompt_tokens=4, output_tokens=5, latency=3.0, pieces=[(1.0, 1.0), (2.0, 2.0), (3.0, 2.0)]
    )
    work = work_in([record], WHOLE_RUN)
    assert (work.prompt_tokens, work.output_tokens, work.decoded_tokens) == (4, 5, 4)
    assert work.pairs == 1 + 2 + 3 + 4
    assert work.decode_context == 5 + 6 + 7 + 8
    assert work_in([record], Window(1.0, 2.0)).decode_context == 5 + 6
    # The offline engine and the simulator may have several tokens in the first piece.
    record.pieces = [(1.0, 3.0), (3.0, 2.0)]
    assert work_in([record], WHOLE_RUN).decode_context == 5 + 6 + 7 + 8


def test_roofline_of_a_dense_model() -> None:
    """The published steady run: 12620 tok/s of Qwen2.5-32B on two H200 are about 410 TFLOP/s each."""
    model = load_model_config(SHAPES / "qwen2.5-32b")
    records = closed_loop([(196, 171)] * 1600, 400, step=0.0679)
    window = steady_window(records)
    summary = summarize(records, window.duration, window=window)
    assert summary.output_throughput == pytest.approx(5891, rel=0.01)
    found = roofline(records, window, 400, Gpus(GPUS["H200"], 2, model))
    assert found.flops == pytest.approx(410e12, rel=0.03)
    assert found.compute_share == pytest.approx(found.flops / 989.4e12)
    # 64 GB of weights and 400 contexts of about 282 tokens of 256 KiB, in 67.9 ms, on two GPUs.
    assert found.bandwidth == pytest.approx((64e9 + 400 * 282 * 262144) / 0.0679 / 2, rel=0.03)
    assert found.share == max(found.compute_share, found.bandwidth_share)


def test_roofline_of_experts_counts_those_that_are_hit() -> None:
    model = load_model_config(SHAPES / "qwen3-30b-a3b")
    records = closed_loop([(10, 8)] * 40, 1, step=1.0)
    window = steady_window(records)
    alone = roofline(records, window, 1, Gpus(GPUS["H200"], 1, model))
    many = roofline(records, window, 10_000, Gpus(GPUS["H200"], 1, model))
    active = sum(model.layer_weights(layer, active=True) for layer in range(model.num_layers))
    whole = sum(model.layer_weights(layer) for layer in range(model.num_layers))
    head = model.hidden_size * model.vocab_size
    kv = 4 * model.num_layers * model.num_kv_heads * model.head_dim
    context = work_in(records, window).decode_context / window.duration
    assert alone.bandwidth == pytest.approx(2 * (active + head) + kv * context)
    assert many.bandwidth == pytest.approx(2 * (whole + head) / 10_000 + kv * context)


@pytest.fixture
def server_url() -> Any:
    """A server on a thread of its own; answers have a token every five milliseconds."""
    server = TinyServer()
    server.gap = 0.005
    with serving(server) as url:
        yield url


def bench(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", "serve", "--url", url, "--workload", "cpu", *arguments])


def test_a_steady_run_over_sockets_is_what_its_records_say(server_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    shape = str(SHAPES / "qwen3-8b")
    result = bench(
        server_url,
        *("--steady", "--max-concurrency", "6", "--num-prompts", "40", "--output-len", "20"),
        *("--save-requests", "-o", str(out), "--gpu", "2xH100", "--model-config", shape),
    )
    assert result.exit_code == 0, result.output
    for row in (
        "Steady Serving",
        "Maximum request concurrency:",
        "Window starts at (s):",
        "Share of peak compute (%):",
    ):
        assert row in result.output
    saved = json.loads(out.read_text())
    steady, requests = saved["steady"], saved["requests"]
    assert saved["completed"] == 40
    assert steady["concurrency"] == 6
    assert steady["mean_in_flight"] == pytest.approx(6, abs=1.0)
    # The same by hand.
    ends = sorted(request["start"] + request["latency"] for request in requests)
    start, end = ends[7], max(request["start"] for request in requests)
    assert (steady["window_start"], steady["window_end"]) == (pytest.approx(start), pytest.approx(end))
    outputs = prompts = 0.0
    for request in requests:
        moments = [request["start"] + seconds for seconds, _ in request["pieces"]]
        outputs += sum(start < moment <= end for moment in moments)
        prompts += request["prompt_tokens"] if start < moments[0] <= end else 0
    assert steady["output_throughput"] == pytest.approx(outputs / (end - start))
    assert steady["total_token_throughput"] == pytest.approx((outputs + prompts) / (end - start))
    assert steady["completed"] == sum(start < moment <= end for moment in ends)
    assert steady["roofline"]["num_gpus"] == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--steady",), "--steady needs --max-concurrency"),
        (("--steady", "--max-concurrency", "4", "--request-rate", "2"), "leave out --request-rate 2"),
        (("--steady", "--max-concurrency", "40", "--num-prompts", "50"), "set --num-prompts to 100"),
        (("--gpu", "2xH200"), "add --steady"),
        (("--model-config", "nowhere"), "add --gpu"),
        (("--steady", "--max-concurrency", "4", "--gpu", "3xH200"), "set --model-config"),
    ],
)
def test_wrong_flags_name_the_fix(server_url: str, arguments: tuple[str, ...], error: str) -> None:
    result = bench(server_url, *arguments)
    assert result.exit_code == 1
    assert error in " ".join(result.stderr.split())
