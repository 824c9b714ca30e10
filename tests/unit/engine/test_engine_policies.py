"""Each policy against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.policies import (
    POLICIES,
    Budget,
    Limits,
    Snapshot,
    Waiting,
    adapted_reserve,
    balanced,
    chunked_prefill,
    decode_cap,
    no_ut,
    no_wt,
    token_throttling,
)
from gllm.engine.policies.balanced import pack_decodes
from gllm.engine.time_model import KNEE, Cost, chunk_pairs

COSTS = st.builds(
    Cost,
    a=st.floats(1e-4, 1.0),
    b=st.floats(1e-7, 1e-2),
    c=st.floats(0, 1e-6),
    d=st.floats(0, 1e-4),
    e=st.floats(0, 1e-2),
    g=st.floats(0, 1e-2),
)
LIMITS = Limits(
    pp=4,
    max_num_seqs=256,
    max_prefill_tokens=2048,
    min_prefill_tokens=32,
    prefill_iterations=8,
    kv_threshold=0.05,
)
SNAPSHOT = Snapshot(
    limits=LIMITS,
    waiting_tokens=8000,
    waiting_requests=10,
    ready_decodes=100,
    total_decodes=100,
    decode_context=50_000,
    kv_free=1.0,
    in_flight=2,
    decodes_in_flight=0,
    step_times=(0.01, 0.02),
)


def test_every_name_has_a_policy() -> None:
    assert set(POLICIES) == set(POLICY_NAMES)


@pytest.mark.parametrize(
    ("waiting", "kv_free", "expected"),
    [
        (8000, 1.0, 1000),  # WT: 8000 / 8, below UT's 2048
        (80_000, 1.0, 2048),  # UT: 2048 * 0.95 / 0.95
        (80_000, 0.525, 1024),  # UT: 2048 * 0.475 / 0.95
        (80_000, 0.24, 409),  # UT: 2048 * 0.19 / 0.95 = 409.6
        (100, 1.0, 32),  # WT: 12.5, raised to #MinP
        (80_000, 0.06, 32),  # UT: 2048 * 0.01 / 0.95 = 21.6, raised to #MinP
        (80_000, 0.05, 32),  # at the threshold: not below it
        (80_000, 0.049, 0),  # below it: suspended
    ],
)
def test_prefill_of_token_throttling_is_equation_3(waiting: int, kv_free: float, expected: int) -> None:
    snapshot = replace(SNAPSHOT, waiting_tokens=waiting, kv_free=kv_free)
    assert token_throttling(snapshot).prefill_tokens == expected


@pytest.mark.parametrize(
    ("total", "ready", "pp", "in_flight", "expected"),
    [
        (100, 100, 4, 0, 25),
        (101, 101, 4, 0, 26),
        (101, 3, 4, 3, 3),
        (101, 3, 4, 2, 2),  # two more micro-batches are to be filled
        (101, 3, 4, 4, 0),  # pp micro-batches have decodes
        (3, 3, 4, 0, 1),
        (5, 5, 4, 0, 2),  # 2, 1, 1, 1 and not 2, 2, 1, 0
        (5, 3, 4, 1, 1),
        (0, 0, 4, 0, 0),
        (101, 101, 1, 0, 101),
    ],
)
@pytest.mark.parametrize("policy", ["token_throttling", "no_wt", "no_ut"])
def test_decodes_are_shared_by_equation_4(
    policy: PolicyName, total: int, ready: int, pp: int, in_flight: int, expected: int
) -> None:
    snapshot = replace(
        SNAPSHOT,
        total_decodes=total,
        ready_decodes=ready,
        in_flight=in_flight,
        decodes_in_flight=in_flight,
        limits=replace(LIMITS, pp=pp),
    )
    assert POLICIES[policy](snapshot).decode_rows == expected


def test_one_stage_does_not_spread() -> None:
    snapshot = replace(SNAPSHOT, limits=replace(LIMITS, pp=1), waiting_tokens=800, kv_free=0.525)
    assert token_throttling(snapshot).prefill_tokens == 1024
    assert no_ut(snapshot).prefill_tokens == 2048


@pytest.mark.parametrize(("kv_free", "expected"), [(1.0, 2048), (0.525, 1024), (0.05, 32), (0.04, 0)])
def test_without_wt_only_the_pool_counts(kv_free: float, expected: int) -> None:
    assert no_wt(replace(SNAPSHOT, waiting_tokens=8, kv_free=kv_free)).prefill_tokens == expected


@pytest.mark.parametrize(("waiting", "expected"), [(8000, 1000), (80_000, 2048), (8, 32)])
@pytest.mark.parametrize("kv_free", [1.0, 0.01])
def test_without_ut_only_waiting_tokens_count(waiting: int, kv_free: float, expected: int) -> None:
    assert no_ut(replace(SNAPSHOT, waiting_tokens=waiting, kv_free=kv_free)).prefill_tokens == expected


def test_chunked_prefill_gets_the_rest_after_decodes() -> None:
    assert chunked_prefill(SNAPSHOT) == Budget(prefill_tokens=1948, decode_rows=100)
    crowded = replace(SNAPSHOT, ready_decodes=3000, total_decodes=3000)
    assert chunked_prefill(crowded) == Budget(prefill_tokens=0, decode_rows=2048)


def test_decode_cap_takes_a_stage_share() -> None:
    assert decode_cap(SNAPSHOT) == Budget(prefill_tokens=1984, decode_rows=64)
    assert decode_cap(replace(SNAPSHOT, ready_decodes=10)) == Budget(prefill_tokens=2038, decode_rows=10)
    odd = replace(SNAPSHOT, limits=replace(LIMITS, max_num_seqs=30))
    assert decode_cap(odd).decode_rows == 8


@given(
    policy=st.sampled_from(POLICY_NAMES),
    pp=st.integers(1, 8),
    waiting=st.integers(0, 10**6),
    contexts=st.lists(st.integers(1, 10**5), max_size=300),
    in_flight_decodes=st.integers(0, 300),
    decodes_in_flight=st.integers(0, 9),
    in_flight_seconds=st.lists(st.floats(0, 10), max_size=9),
    cost=COSTS,
    ttft_target=st.sampled_from([0.0, 0.1, 10.0]),
    tpot_target=st.sampled_from([0.0, 1e-3, 0.1, 10.0]),
    kv_free=st.floats(0, 1),
    most=st.integers(1, 5000),
    least=st.integers(1, 5000),
    threshold=st.floats(0, 0.99),
)
def test_bounds_and_progress(
    policy: PolicyName,
    pp: int,
    waiting: int,
    contexts: list[int],
    in_flight_decodes: int,
    decodes_in_flight: int,
    in_flight_seconds: list[float],
    cost: Cost,
    ttft_target: float,
    tpot_target: float,
    kv_free: float,
    most: int,
    least: int,
    threshold: float,
) -> None:
    config = EngineConfig(
        model="",
        max_prefill_tokens=most,
        min_prefill_tokens=least,
        kv_threshold=threshold,
        ttft_target=ttft_target,
        tpot_target=tpot_target,
    )
    decodes = len(contexts)
    decodes_in_flight = min(decodes_in_flight, pp) if pp > 1 else 0
    snapshot = replace(
        SNAPSHOT,
        limits=Limits.of(config, pp),
        waiting_tokens=waiting,
        ready_decodes=decodes,
        total_decodes=decodes + in_flight_decodes,
        decode_context=2 * sum(contexts),
        in_flight=decodes_in_flight,
        decodes_in_flight=decodes_in_flight,
        kv_free=kv_free,
        cost=cost,
        in_flight_seconds=tuple(in_flight_seconds),
        ready_contexts=tuple(contexts),
        waiting_pairs=waiting * 100.0,
        waiting=(Waiting(waiting // 2, waiting * 50.0, 1.0),),
        kv_reserve=threshold,
    )
    budget = POLICIES[policy](snapshot)
    assert 0 <= budget.prefill_tokens <= most
    assert 0 <= budget.decode_rows <= decodes
    assert budget.decode_rows > 0 or not decodes or decodes_in_flight == pp
    assert budget.prefill_tokens > 0 or snapshot.total_decodes, "without decodes prefill must continue"
    assert budget.prefill_seconds >= 0
    assert budget.least_tokens <= Limits.of(config, pp).min_prefill_tokens
    if budget.decodes is not None:
        assert len(set(budget.decodes)) == len(budget.decodes) == budget.decode_rows
        assert all(0 <= index < decodes for index in budget.decodes)
        assert not budget.decodes or budget.decodes[0] == 0, "the one that has waited longest is taken"


@given(contexts=st.lists(st.integers(1, 10_000), min_size=1, max_size=200), pp=st.integers(2, 16), cost=COSTS)
def test_balanced_packs_decodes_into_micro_batches_of_equal_time(contexts: list[int], pp: int, cost: Cost) -> None:
    """pp micro-batches take all decodes, each at most its share plus one decode."""
    limits = replace(LIMITS, pp=pp)
    row = cost.products(len(contexts) / pp) * pp / len(contexts) + cost.e
    share = sum(row + cost.d * context for context in contexts) / pp
    ready = list(contexts)
    for filled in range(pp):
        snapshot = replace(SNAPSHOT, limits=limits, total_decodes=len(contexts), decodes_in_flight=filled, cost=cost)
        snapshot = replace(snapshot, ready_contexts=tuple(ready))
        chosen, seconds = pack_decodes(snapshot, share)
        times = [row + cost.d * ready[index] for index in chosen]
        assert seconds == pytest.approx(sum(times))
        assert chosen or not ready
        assert seconds <= share + max(times, default=0.0) * (1 + 1e-6)
        ready = [context for index, context in enumerate(ready) if index not in chosen]
    assert not ready


def test_balanced_gives_a_micro_batch_without_decodes_more_prefill() -> None:
    cost = Cost(a=1e-3, b=1e-5, c=0.0, d=1e-8, e=0.0)
    base = replace(
        SNAPSHOT, cost=cost, in_flight=4, decodes_in_flight=4, in_flight_seconds=(3e-3,) * 4, waiting_tokens=800
    )
    alone = balanced(base)
    beside = balanced(replace(base, decodes_in_flight=3, ready_contexts=(500,) * 25, ready_decodes=25))
    assert (alone.decode_rows, beside.decode_rows) == (0, 25)
    decodes = 25 * (1e-5 + 500e-8)
    assert alone.prefill_seconds == pytest.approx(beside.prefill_seconds + decodes)


def test_balanced_meets_a_ttft_target_and_not_sooner() -> None:
    """A prompt of 0.1 s of prefill is due in 1 s, minus its time through the stages: it needs over a tenth of the time.

    A decode that costs nothing runs beside it, because without decodes the target does not delay a prompt.
    """
    cost = Cost(a=1e-2, b=0.0, c=0.0, d=0.0, e=0.0, g=1e-4)
    limits = replace(LIMITS, ttft_target=1.0, min_prefill_tokens=1)
    snapshot = replace(
        SNAPSHOT, limits=limits, cost=cost, total_decodes=1, ready_decodes=0, decode_context=0, waiting_tokens=1000
    )
    young = balanced(replace(snapshot, waiting=(Waiting(1000, 0.0, 0.0),)))
    assert young.prefill_seconds == pytest.approx(1e-2 * (0.1 / 0.96) / (1 - 0.1 / 0.96))
    old = balanced(replace(snapshot, waiting=(Waiting(1000, 0.0, 0.8),)))
    assert old.prefill_seconds == pytest.approx(1e-2 * (0.1 / 0.16) / (1 - 0.1 / 0.16))
    late = balanced(replace(snapshot, waiting=(Waiting(1000, 0.0, 2.0),)))
    assert late.prefill_seconds == pytest.approx(0.95 / 0.05 * 1e-2)


def test_balanced_grows_by_one_part_in_pp() -> None:
    cost = Cost(a=1e-3, b=1e-5, c=0.0, d=0.0, e=0.0)
    busy = replace(SNAPSHOT, cost=cost, waiting_tokens=700, in_flight=4, decodes_in_flight=4, ready_decodes=0)
    busy = replace(busy, total_decodes=100, decode_context=0, in_flight_seconds=(1.5e-3,) * 4)
    limits = replace(busy.limits, prefill_iterations=1)
    assert balanced(replace(busy, limits=limits)).prefill_seconds == pytest.approx(1.5e-3 * 1.25 - 1e-3)
    busy = replace(busy, in_flight_seconds=(8e-3,) * 4)
    assert balanced(replace(busy, waiting_tokens=10)).prefill_seconds == pytest.approx(8e-3 * 0.75 - 1e-3)


@given(
    tokens=st.integers(5_000, 200_000),
    pp=st.integers(2, 16),
    token=st.floats(1e-6, 1e-3),
    step=st.floats(160, 1000),
    pair=st.floats(0, 1e-4),
)
def test_a_lone_prompt_takes_equal_time_in_every_micro_batch(
    tokens: int, pp: int, token: float, step: float, pair: float
) -> None:
    """step: the time of an empty step, in times of a token; pair: that of attention to one token of context."""
    cost = Cost(a=step * token, b=token / 16, c=pair * token, d=0.0, e=0.0, g=token * 15 / 16)
    limits = replace(LIMITS, pp=pp, min_prefill_tokens=KNEE, max_prefill_tokens=10**6)
    lone = replace(SNAPSHOT, limits=limits, cost=cost, total_decodes=0, ready_decodes=0, decode_context=0, kv_free=0.2)
    start, seconds = 0, []
    while start < tokens:
        snapshot = replace(lone, waiting_tokens=tokens - start, waiting_pairs=chunk_pairs(start, tokens - start))
        budget = balanced(replace(snapshot, in_flight=len(seconds[-pp:]), in_flight_seconds=tuple(seconds[-pp:])))
        chunk = min(max(cost.tokens_within(budget.prefill_seconds, start), 1), tokens - start)
        seconds.append(cost.a + cost.chunk(start, chunk))
        start += chunk
    assert max(seconds) <= seconds[0] * 1.15
    assert min(seconds[:-2], default=seconds[0]) >= seconds[0] * 0.7


def test_a_lone_prompt_is_cut_into_the_best_number_of_micro_batches() -> None:
    """TTFT = (n + pp - 1) (W / n + f): 1 s of prefill, 3 ms a step, four stages."""
    cost = Cost(a=3e-3, b=1e-4, c=0.0, d=0.0, e=0.0)
    lone = replace(SNAPSHOT, limits=replace(LIMITS, pp=4), cost=cost, total_decodes=0, ready_decodes=0)
    budget = balanced(replace(lone, waiting_tokens=10_000, in_flight=0, decodes_in_flight=0, in_flight_seconds=()))

    def ttft(steps: int) -> float:
        return (steps + 3) * (1.0 / steps + 3e-3)

    assert round(1.0 / budget.prefill_seconds) == pytest.approx(min(range(1, 200), key=ttft), abs=1)


@given(reserve=st.floats(0, 0.99), preemptions=st.integers(0, 50), threshold=st.floats(0, 0.99))
def test_the_reserve_follows_preemptions(reserve: float, preemptions: int, threshold: float) -> None:
    limits = replace(LIMITS, kv_threshold=threshold)
    after = adapted_reserve(reserve, preemptions, limits)
    assert 0 <= after < 1
    assert adapted_reserve(reserve, preemptions + 1, limits) >= after
    for _ in range(20_000):
        reserve = adapted_reserve(reserve, 0, limits)
    assert reserve == pytest.approx(0.2 * threshold, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_num_seqs", 0),
        ("max_prefill_tokens", 0),
        ("min_prefill_tokens", 0),
        ("prefill_iterations", 0),
        ("kv_threshold", 1.0),
        ("kv_threshold", -0.1),
        ("ttft_target", float("nan")),
        ("tpot_target", -1.0),
        ("tpot_target", float("inf")),
    ],
)
def test_settings_that_stop_everything_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Limits.of(EngineConfig(model="", **{field: value}), 1)
