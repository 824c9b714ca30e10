"""Workloads: the published statistics, clipping, and equal requests for equal seeds."""

import math
import random
import statistics
from typing import get_args

import pytest

from gllm.apps.bench.arrivals import arrival_times
from gllm.apps.bench.prompt_writer import MIN_LENGTH, token_range_for
from gllm.apps.bench.workloads import WORKLOADS, Lengths, make_requests
from gllm.apps.cli.bench.data_flags import WorkloadName


def test_command_line_offers_every_workload() -> None:
    assert list(get_args(WorkloadName)) == list(WORKLOADS)


@pytest.mark.parametrize(("mean", "sigma"), [(220, 1.1), (2048, 0.3), (60, 0.5)])
def test_unclipped_lengths_have_the_given_mean_and_sigma(mean: float, sigma: float) -> None:
    rng = random.Random(1)
    drawn = [Lengths(mean, sigma, 10**9).sample(rng) for _ in range(40_000)]
    # Standard error of a log-normal's mean: mean * sqrt(exp(sigma^2) - 1) / sqrt(n).
    error = mean * math.sqrt(math.exp(sigma**2) - 1) / math.sqrt(len(drawn))
    assert abs(statistics.fmean(drawn) - mean) < 5 * error + 0.5
    logs = [math.log(length) for length in drawn if length > MIN_LENGTH]
    assert statistics.stdev(logs) == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_lengths_are_clipped(name: str) -> None:
    workload = WORKLOADS[name]
    for request in make_requests(workload, 300, seed=3):
        assert MIN_LENGTH <= len(request.token_ids) <= workload.prompt.most
        assert MIN_LENGTH <= request.output_len <= workload.output.most


def test_clipping_works_at_both_ends() -> None:
    drawn = {Lengths(10, 2.0, 12).sample(random.Random(seed)) for seed in range(200)}
    assert min(drawn) == MIN_LENGTH
    assert max(drawn) == 12


def test_equal_seeds_give_equal_requests() -> None:
    first, again, other = (make_requests(WORKLOADS["cpu"], 20, seed=seed, rate=5.0) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    # The rate changes only when requests come, not what they are.
    assert [r.token_ids for r in make_requests(WORKLOADS["cpu"], 20, seed=7)] == [r.token_ids for r in first]


def test_arrivals() -> None:
    assert arrival_times(3, math.inf, random.Random(0)) == [0.0, 0.0, 0.0]
    times = arrival_times(4000, 8.0, random.Random(0))
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4000 / 8.0, rel=0.1)
    with pytest.raises(ValueError, match="request rate"):
        arrival_times(3, 0.0, random.Random(0))


def test_requests_fit_a_short_context_and_a_small_vocabulary() -> None:
    for request in make_requests(WORKLOADS["azure"], 50, max_model_len=100, token_range=(3, 9)):
        assert len(request.token_ids) + request.output_len <= 100
        assert set(request.token_ids) <= set(range(3, 9))
    fixed = make_requests(WORKLOADS["cpu"], 2, input_len=10, output_len=20)
    assert [(len(request.token_ids), request.output_len) for request in fixed] == [(10, 20)] * 2


@pytest.mark.parametrize(
    ("vocab", "expected"),
    [(None, (1000, 32000)), (151936, (1000, 32000)), (20000, (1000, 20000)), (512, (0, 512))],
)
def test_token_range(vocab: int | None, expected: tuple[int, int]) -> None:
    assert token_range_for(vocab) == expected


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 1, "token_range": (5, 5)}, {"count": 1, "max_model_len": 7}])
def test_wrong_arguments_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        make_requests(WORKLOADS["cpu"], **wrong)
