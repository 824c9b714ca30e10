"""Each policy against numbers worked out by hand."""

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
    chunked_prefill,
    decode_cap,
    no_ut,
    no_wt,
    token_throttling,
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
        (101, 3, 4, 4, 3),
        (101, 3, 4, 2, 2),  # two more micro-batches are to be filled
        (3, 3, 4, 0, 1),
        (5, 5, 4, 0, 2),  # 2, 1, 1, 1 and not 2, 2, 1, 0
        (5, 3, 4, 1, 1),
        (0, 0, 4, 0, 0),
        (101, 101, 1, 0, 101),
        (101, 101, 1, 1, 101),
    ],
)
@pytest.mark.parametrize("policy", ["token_throttling", "no_wt", "no_ut"])
def test_decodes_are_shared_by_equation_4(
    policy: PolicyName, total: int, ready: int, pp: int, in_flight: int, expected: int
) -> None:
    snapshot = replace(
        SNAPSHOT, total_decodes=total, ready_decodes=ready, in_flight=in_flight, limits=replace(LIMITS, pp=pp)
    )
    assert POLICIES[policy](snapshot).decode_rows == expected


def test_one_stage_has_nothing_to_even_out() -> None:
    snapshot = replace(SNAPSHOT, limits=replace(LIMITS, pp=1), waiting_tokens=800, kv_free=0.525)
    assert token_throttling(snapshot).prefill_tokens == 1024
    assert no_ut(snapshot).prefill_tokens == 2048


@pytest.mark.parametrize(("kv_free", "expected"), [(1.0, 2048), (0.525, 1024), (0.05, 32), (0.04, 0)])
def test_without_wt_only_the_pool_counts(kv_free: float, expected: int) -> None:
    assert no_wt(replace(SNAPSHOT, waiting_tokens=8, kv_free=kv_free)).prefill_tokens == expected


@pytest.mark.parametrize(("waiting", "expected"), [(8000, 1000), (80_000, 2048), (8, 32)])
@pytest.mark.parametrize("kv_free", [1.0, 0.01])
def test_without_ut_only_what_waits_counts(waiting: int, kv_free: float, expected: int) -> None:
    assert no_ut(replace(SNAPSHOT, waiting_tokens=waiting, kv_free=kv_free)).prefill_tokens == expected


def test_chunked_prefill_fills_what_decodes_leave() -> None:
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
    decodes=st.integers(0, 300),
    in_flight_decodes=st.integers(0, 300),
    kv_free=st.floats(0, 1),
    most=st.integers(1, 5000),
    least=st.integers(1, 5000),
    threshold=st.floats(0, 0.99),
)
def test_bounds_and_progress(
    policy: PolicyName,
    pp: int,
    waiting: int,
    decodes: int,
    in_flight_decodes: int,
    kv_free: float,
    most: int,
    least: int,
    threshold: float,
) -> None:
    config = EngineConfig(model="", max_prefill_tokens=most, min_prefill_tokens=least, kv_threshold=threshold)
    snapshot = replace(
        SNAPSHOT,
        limits=Limits.of(config, pp),
        waiting_tokens=waiting,
        ready_decodes=decodes,
        total_decodes=decodes + in_flight_decodes,
        kv_free=kv_free,
    )
    budget = POLICIES[policy](snapshot)
    assert 0 <= budget.prefill_tokens <= most
    assert 0 <= budget.decode_rows <= decodes
    assert budget.decode_rows > 0 or not decodes
    assert budget.prefill_tokens > 0 or snapshot.total_decodes, "nothing runs, so prefill must go on"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_num_seqs", 0),
        ("max_prefill_tokens", 0),
        ("min_prefill_tokens", 0),
        ("prefill_iterations", 0),
        ("kv_threshold", 1.0),
        ("kv_threshold", -0.1),
    ],
)
def test_settings_that_stop_everything_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Limits.of(EngineConfig(model="", **{field: value}), 1)
