"""The bound on the time of a micro-batch while requests decode, also before the time model has learned."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.apps.bench.requests import BenchRequest
from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.apps.simulate.simulation import Simulation
from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.policies import Budget, Limits, step_seconds, within_bound
from gllm.engine.policies.bound import FLOOR
from gllm.engine.safety_margin import SafetyMargin
from gllm.engine.time_model import Cost, Work

COST = Cost(a=1e-2, b=1e-3, c=0.0, d=0.0, e=0.0)


def limits(pp: int = 1, tpot_target: float = 0.0) -> Limits:
    return Limits.of(EngineConfig(model="", tpot_target=tpot_target), pp)


@pytest.mark.parametrize(
    ("pp", "target", "seconds"), [(1, 0.0, 0.25), (4, 0.0, 0.25), (1, 0.05, 0.0485), (4, 0.05, 0.012125)]
)
def test_the_bound_is_the_target_over_the_micro_batches_of_a_round(pp: int, target: float, seconds: float) -> None:
    """3 % of the target are not computation."""
    assert step_seconds(limits(pp, target)) == pytest.approx(seconds)


@given(
    pp=st.integers(1, 16),
    target=st.sampled_from([0.0, 1e-4, 0.05, 10.0]),
    base=st.floats(0, 10),
    tokens=st.integers(0, 5000),
    seconds=st.one_of(st.just(math.inf), st.floats(0, 10)),
    margin=st.floats(1, 4),
    most=st.integers(-300, 5000),
)
def test_prefill_is_cut_to_the_bound_and_never_to_nothing(
    pp: int, target: float, base: float, tokens: int, seconds: float, margin: float, most: int
) -> None:
    rules = limits(pp, target)
    bound = step_seconds(rules)
    given_budget = Budget(tokens, 3, seconds, 32)
    budget = within_bound(given_budget, rules, base, margin, most)
    assert budget.decode_rows == 3, "decodes always run"
    assert 0 <= budget.prefill_tokens <= tokens
    assert 0.0 <= budget.prefill_seconds <= seconds
    assert (budget.prefill_tokens >= 1 and budget.least_tokens == 1) or not tokens
    assert base + min(budget.prefill_seconds, 1e9) <= max(bound, base + FLOOR * max(bound, base)) * (1 + 1e-9)
    assert budget.prefill_seconds >= min(seconds, FLOOR * bound / margin) * (1 - 1e-9)


def test_before_the_first_step_nothing_is_known() -> None:
    assert SafetyMargin().most_tokens(10.0) == 0
    assert SafetyMargin().factor == 1.0


def test_no_leap_beyond_the_largest_measured_micro_batch() -> None:
    """Four decodes in 12 ms: 83 tokens take at most 0.25 s, whatever their cost."""
    margin = SafetyMargin()
    margin.observe(Work(decode_rows=4, decode_context=100, sampled_rows=4), COST, 0.012)
    assert margin.most_tokens(0.25) == 83
    margin.observe(Work(prefill_tokens=79, decode_rows=4), COST, 0.06)
    assert margin.most_tokens(0.25) == int(0.25 / 0.06 * 83)
    margin.observe(Work(decode_rows=4), COST, 1.0)  # far smaller than the largest: no news
    assert margin.most_tokens(0.25) == int(0.25 / 0.06 * 83)
    assert margin.most_tokens(1e-6) == 83, "what has been measured is the time model's to judge"


@given(
    a=st.floats(0, 0.1),
    token=st.floats(1e-6, 1e-2),
    rows=st.integers(1, 300),
    seconds=st.floats(1e-3, 1.0),
)
def test_no_leap_exceeds_the_bound(a: float, token: float, rows: int, seconds: float) -> None:
    """For any step with a fixed cost and a cost per token: sizes grow, and no new size takes longer than asked."""
    margin, size = SafetyMargin(), rows
    for _ in range(12):
        margin.observe(Work(prefill_tokens=size), COST, a + token * size)
        larger = margin.most_tokens(seconds)
        assert larger >= size
        assert larger == size or a + token * larger <= seconds * (1 + 1e-6)
        size = larger
    if a + token * size < seconds / 2:
        assert size > rows, "as long as there is time, micro-batches grow"


def test_a_missed_prediction_is_not_repeated() -> None:
    """Prefill took 0.2 s instead of 0.1 s: half of it next time, and less margin with every step as predicted."""
    margin = SafetyMargin()
    work = Work(prefill_tokens=100, decode_rows=10, sampled_rows=10)
    usual = COST.predict(work)
    margin.observe(work, COST, usual + 0.1)
    assert margin.factor == pytest.approx(2.0)
    factors = []
    for _ in range(8):
        margin.observe(work, COST, usual)
        factors.append(margin.factor)
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] < 1.01
    margin.observe(work, COST, 100.0)
    assert margin.factor == 4.0, "a stall does not stop prefill"


@given(elapsed=st.sampled_from([0.0, -1.0, math.inf, math.nan, 1e9]), tokens=st.integers(0, 100))
def test_invalid_times_are_ignored(elapsed: float, tokens: int) -> None:
    margin = SafetyMargin()
    margin.observe(Work(prefill_tokens=tokens), COST, elapsed)
    assert margin.most_tokens(1.0) == 0
    assert margin.factor == 1.0


# --- a long prompt beside four running streams, on a simulated CPU -----------------------------------------------

CPU = StageTimes(a=2e-3, floor=10e-3, b=0.6e-3, c=0.27e-6, d=0.66e-6, e=0.2e-3)
"""SmolLM2-135M on two cores, roughly: 0.6 ms a token, and attention to 2200 tokens costs as much again."""


def long_prompt(policy: PolicyName, pp: int, **more: Any) -> tuple[float, float]:
    """Return (TTFT, the longest gap of the streams meanwhile) of the first prompt that the scheduler sees."""
    requests = [BenchRequest(i, [0] * 64, 900, 0.01 * i) for i in range(4)]
    requests.append(BenchRequest(4, [0] * 6000, 2, 1.0))
    config = EngineConfig(model="", policy=policy, enable_prefix_caching=False, **more)
    hardware = Hardware(stages=(CPU,) * pp, kv_tokens=40_000, jitter=0.02)
    records = Simulation(config, hardware, requests, seed=1).run().records
    prompt = records[4]
    gaps = [
        end - begin
        for stream in records[:4]
        for (begin, _), (end, _) in itertools.pairwise(stream.pieces)
        if prompt.start - stream.start < end and begin < prompt.start - stream.start + prompt.ttft
    ]
    return prompt.ttft, max(gaps)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_the_first_long_prompt_stops_no_stream(policy: PolicyName) -> None:
    """No gap over 0.4 s, and the prompt at most a quarter later than without a bound, which stops them for seconds."""
    unbounded, stop = long_prompt(policy, 1, tpot_target=100.0)
    assert stop > 1.5
    ttft, gap = long_prompt(policy, 1)
    assert gap < 0.4
    assert ttft < 1.25 * unbounded


@pytest.mark.parametrize(("pp", "target"), [(1, 0.05), (1, 0.1), (2, 0.1), (4, 0.2)])
@pytest.mark.parametrize("policy", ["token_throttling", "balanced"])
def test_a_tpot_target_bounds_the_gaps(policy: PolicyName, pp: int, target: float) -> None:
    ttft, gap = long_prompt(policy, pp, tpot_target=target)
    assert gap < 1.6 * target
    assert ttft < 60.0


def test_a_target_below_the_decodes_alone_does_not_starve_a_prompt() -> None:
    """12 ms for the decodes, and a target of 1 ms: prefill gets its sixteenth."""
    requests = [BenchRequest(0, [0] * 64, 3000, 0.0), BenchRequest(1, [0] * 200, 2, 1.0)]
    config = EngineConfig(model="", tpot_target=1e-3, enable_prefix_caching=False)
    outcome = Simulation(config, Hardware(stages=(CPU,), kv_tokens=10_000), requests).run()
    assert outcome.records[1].ttft < outcome.records[0].latency / 2
    assert replace(outcome.works[-1], decode_rows=0).prefill_tokens == 0
