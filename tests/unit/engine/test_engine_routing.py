"""The choice of an engine: by hand, and its bounds for any load."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.client.routing import (
    MAX_RATIO,
    SLACK_SECONDS,
    EngineLoad,
    choose_engine,
    next_in_turn,
    predicted_waits,
)
from gllm.wire.forecast import PrefillForecast


def load(
    waiting: float = 0.0, requests: int = 0, cached: int = 0, *, leaving: bool = False, token: float = 1e-3
) -> EngineLoad:
    """waiting: seconds. token: seconds for each token."""
    return EngineLoad(
        forecast=PrefillForecast(waiting=waiting, token=token),
        requests=requests,
        cached_tokens=cached,
        leaving=leaving,
    )


def test_by_hand() -> None:
    assert choose_engine(100, []) is None
    assert choose_engine(100, [load(waiting=0.5), load(waiting=0.1)]) == 1
    assert [choose_engine(10, [load(), load(), load(leaving=True)], turn) for turn in range(4)] == [0, 1, 0, 1]
    assert choose_engine(10, [load(waiting=9**9), load(leaving=True)]) == 0
    assert choose_engine(10, [load(leaving=True)]) == 0, "better than none"


def test_a_cached_prefix_wins_within_the_bound() -> None:
    idle = load()
    assert choose_engine(1000, [idle, load(waiting=0.5, cached=640)]) == 1
    # On the idle engine the request waits for its own 1000 tokens, 1 s; the bound is 2 * 1 + 0.5 s.
    assert choose_engine(1000, [idle, load(waiting=2.49 - 0.36, cached=640)]) == 1
    assert choose_engine(1000, [idle, load(waiting=2.51 - 0.36, cached=640)]) == 0
    assert choose_engine(1000, [load(cached=16), load(waiting=0.01, cached=32)]) == 1


def test_round_robin_passes_over_engines_that_leave() -> None:
    assert [next_in_turn([False, True, False], turn) for turn in range(4)] == [0, 2, 0, 2]
    assert next_in_turn([True, True], 1) == 1, "better than none"
    assert next_in_turn([], 0) is None


def test_waits_are_seconds_not_tokens() -> None:
    """The same prompt waits longer on a slow engine, and behind long contexts."""
    slow, fast = load(token=2e-3), load(waiting=0.5, token=1e-3)
    assert choose_engine(1000, [slow, fast]) == 1, "2.0 s on the idle slow one, 1.5 s on the busy fast one"
    long = EngineLoad(forecast=PrefillForecast(token=1e-3, pair=1e-5))
    assert predicted_waits(1000, [long]) == [1.0 + 1e-5 * 500500]
    halfway = msgspec.structs.replace(long, cached_tokens=500)
    assert predicted_waits(1000, [halfway]) == [0.5 + 1e-5 * (500500 - 125250)]
    unseen = msgspec.structs.replace(load(), unseen_tokens=700)
    assert predicted_waits(100, [unseen]) == [0.8]


def test_equal_waits_go_to_the_engine_with_fewer_requests() -> None:
    """Decodes hardly show in the time to the first token, and predictions differ by some percent."""
    assert choose_engine(100, [load(waiting=0.010, requests=40), load(waiting=0.020, requests=3)]) == 1
    assert choose_engine(100, [load(waiting=0.010, requests=40), load(waiting=0.200, requests=3)]) == 0
    assert choose_engine(100, [load(requests=2, cached=64), load(requests=1)]) == 0, "a cached prefix comes first"


def test_an_engine_without_measurements_counts_as_fast_as_the_slowest() -> None:
    new = EngineLoad()
    assert predicted_waits(100, [new, load(token=1e-3), load(token=2e-3)]) == [0.2, 0.1, 0.2]
    assert predicted_waits(100, [new, new]) == [0.1, 0.1]
    assert [choose_engine(100, [new, new], turn) for turn in range(2)] == [0, 1]


LOADS = st.lists(
    st.builds(
        EngineLoad,
        forecast=st.builds(
            PrefillForecast,
            waiting=st.floats(0, 1e4),
            token=st.sampled_from([0.0, 1e-5, 1e-3]),
            pair=st.sampled_from([0.0, 1e-8]),
        ),
        unseen_tokens=st.integers(0, 10**5),
        requests=st.integers(0, 1000),
        cached_tokens=st.integers(0, 5000),
        leaving=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(LOADS, st.integers(1, 5000), st.integers(0, 10**6))
def test_the_choice_is_bounded(engines: list[EngineLoad], prompt: int, turn: int) -> None:
    index = choose_engine(prompt, engines, turn)
    assert index is not None
    chosen = engines[index]
    staying = [one for one in engines if not one.leaving] or engines
    assert any(chosen is one for one in staying)
    waits = predicted_waits(prompt, staying)
    own = next(wait for one, wait in zip(staying, waits, strict=True) if one is chosen)
    assert own <= min(waits) * MAX_RATIO + SLACK_SECONDS
    for other, wait in zip(staying, waits, strict=True):
        if wait <= own:
            assert other.cached_tokens <= chosen.cached_tokens, "a longer prefix at no cost was left"
            if other.cached_tokens == chosen.cached_tokens:
                assert other.requests >= chosen.requests, "fewer requests at no cost were left"


@dataclass
class Engine:
    """Computes prompts one after another, at a fixed speed."""

    token: float
    free_at: float = 0.0


@given(
    st.lists(st.sampled_from([1e-4, 5e-4, 1e-3]), min_size=2, max_size=5),
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 2000)), min_size=1, max_size=60),
)
def test_engines_of_unequal_speed_are_never_far_apart(speeds: list[float], arrivals: list[tuple[float, int]]) -> None:
    """Without cached prefixes nothing waits much longer than on the best engine."""
    engines = [Engine(token) for token in speeds]
    now = 0.0
    for number, (pause, prompt) in enumerate(arrivals):
        now += pause
        loads = [load(max(0.0, one.free_at - now), token=one.token) for one in engines]
        index = choose_engine(prompt, loads, number)
        assert index is not None
        ends = [max(now, one.free_at) + prompt * one.token for one in engines]
        assert ends[index] - now <= (min(ends) - now) * 1.25 + 0.02 + 1e-9
        engines[index].free_at = ends[index]
