"""Figures of small cases that were computed by hand."""

import random

import pytest

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.report import as_json, as_text, parse_goodput, percentile, spread, summarize


def record(index: int, start: float, times: list[float], **fields) -> RequestRecord:
    pieces = [(time, 1.0) for time in times]
    defaults = {"prompt_tokens": 10, "output_tokens": len(times), "latency": times[-1], "finish_reason": "length"}
    return RequestRecord(index=index, start=start, pieces=pieces, **{**defaults, **fields})


TWO = [record(0, 0.0, [0.1, 0.2, 0.4]), record(1, 0.2, [0.3, 0.5])]


def test_figures_of_two_requests() -> None:
    summary = summarize(TWO, duration=0.7)
    assert (summary.completed, summary.failed) == (2, 0)
    assert (summary.total_input_tokens, summary.total_output_tokens) == (20, 5)
    assert summary.request_throughput == pytest.approx(2 / 0.7)
    assert summary.output_throughput == pytest.approx(5 / 0.7)
    assert summary.total_token_throughput == pytest.approx(25 / 0.7)
    assert summary.ttft.mean == pytest.approx(200.0)
    assert summary.ttft.p99 == pytest.approx(100 + 0.99 * 200)
    # (0.4 - 0.1) / 2 = 150 ms and (0.5 - 0.3) / 1 = 200 ms
    assert summary.tpot.mean == pytest.approx(175.0)
    # Gaps 100, 200, 200
    assert summary.itl.mean == pytest.approx(500 / 3)
    assert summary.itl.median == pytest.approx(200.0)
    assert summary.e2el.mean == pytest.approx(450.0)
    assert summary.max_concurrent_requests == 2
    assert summary.peak_output_throughput == 5


def test_failed_requests_count_only_as_failed() -> None:
    broken = RequestRecord(index=2, prompt_tokens=99, start=0.0, error="HTTP 500")
    summary = summarize([*TWO, broken], duration=0.7)
    assert summary.failed == 1
    assert summary.total_input_tokens == 20
    assert summarize([broken], duration=1.0).ttft.mean == 0.0


def test_one_token_has_no_tpot() -> None:
    assert record(0, 0.0, [0.1]).tpot is None
    assert summarize([record(0, 0.0, [0.1])], 1.0).tpot.mean == 0.0


def test_itl_splits_a_gap_over_the_tokens_of_its_piece() -> None:
    several = RequestRecord(index=0, prompt_tokens=1, output_tokens=5, latency=0.5, pieces=[(0.1, 1.0), (0.5, 4.0)])
    assert several.gaps == [(pytest.approx(0.1), 4.0)]
    assert summarize([several], 1.0).itl.mean == pytest.approx(100.0)


def test_percentile_is_numpys_and_weights_are_repeats() -> None:
    numpy = pytest.importorskip("numpy")
    rng = random.Random(5)
    for size in (1, 2, 3, 10, 57):
        pairs = [(rng.random(), float(rng.randint(1, 4))) for _ in range(size)]
        repeated = [value for value, weight in pairs for _ in range(int(weight))]
        for share in (0.0, 0.25, 0.5, 0.9, 0.99, 1.0):
            assert percentile(pairs, share) == pytest.approx(numpy.percentile(repeated, 100 * share))
    assert percentile([], 0.5) == 0.0


def test_a_request_that_starts_when_another_ends_is_not_concurrent() -> None:
    chain = [record(0, 0.0, [1.0]), record(1, 1.0, [1.0])]
    assert summarize(chain, 2.0).max_concurrent_requests == 1


def test_goodput() -> None:
    bounds = parse_goodput(["ttft:200", "e2el:450"])
    assert summarize(TWO, 0.7, bounds).request_goodput == pytest.approx(1 / 0.7)
    assert summarize(TWO, 0.7).request_goodput is None
    for wrong in ("ttft", "itl:5", "ttft:-1", "ttft:fast"):
        with pytest.raises(ValueError, match="goodput must look like"):
            parse_goodput([wrong])


def test_json_has_vllms_keys_and_the_text_its_lines() -> None:
    summary = summarize(TWO, 0.7)
    result = as_json(summary, {"trace": "cpu"}, TWO)
    assert result["trace"] == "cpu"
    for key in ("mean_ttft_ms", "median_tpot_ms", "p99_itl_ms", "p99_e2el_ms", "output_throughput", "completed"):
        assert key in result
    assert result["requests"][0]["ttft"] == pytest.approx(0.1)
    assert "requests" not in as_json(summary, {})
    text = as_text(summary)
    for row in ("Successful requests:", "Output token throughput (tok/s):", "P99 TTFT (ms):", "Mean E2EL (ms):"):
        assert row in text
    assert spread([]).mean == 0.0
