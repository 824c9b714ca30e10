"""The choice of an engine: by hand, and its bounds for any load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.client.routing import MAX_RATIO, SLACK_TOKENS, EngineLoad, choose_engine, predicted_wait


def load(waiting: int = 0, running: int = 0, cached: int = 0, leaving: bool = False) -> EngineLoad:
    return EngineLoad(waiting_tokens=waiting, running=running, cached_tokens=cached, leaving=leaving)


def test_by_hand() -> None:
    assert choose_engine(100, []) is None
    assert choose_engine(100, [load(waiting=50), load(running=49)]) == 1
    assert [choose_engine(10, [load(), load(), load(leaving=True)], turn) for turn in range(4)] == [0, 1, 0, 1]
    assert choose_engine(10, [load(waiting=9**9), load(leaving=True)]) == 0
    assert choose_engine(10, [load(leaving=True)]) == 0, "better than none"


def test_a_cached_prefix_wins_within_the_bound() -> None:
    idle, cached = load(), load(waiting=500, cached=640)
    assert choose_engine(1000, [idle, cached]) == 1
    # On the idle engine the request waits for its own 1000 tokens; the bound is 2 * 1000 + 2048.
    assert choose_engine(1000, [idle, load(waiting=4048 - 360, cached=640)]) == 1
    assert choose_engine(1000, [idle, load(waiting=4049 - 360, cached=640)]) == 0
    assert choose_engine(1000, [load(cached=16), load(waiting=10, cached=32)]) == 1


LOADS = st.lists(
    st.builds(load, st.integers(0, 10**6), st.integers(0, 1000), st.integers(0, 5000), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(LOADS, st.integers(1, 5000), st.integers(0, 10**6))
def test_the_choice_is_bounded(engines: list[EngineLoad], prompt: int, turn: int) -> None:
    index = choose_engine(prompt, engines, turn)
    assert index is not None
    chosen = engines[index]
    staying = [one for one in engines if not one.leaving] or engines
    assert chosen in staying
    waits = [predicted_wait(prompt, one) for one in staying]
    assert predicted_wait(prompt, chosen) <= min(waits) * MAX_RATIO + SLACK_TOKENS
    for other in staying:
        if predicted_wait(prompt, other) <= predicted_wait(prompt, chosen):
            assert other.cached_tokens <= chosen.cached_tokens, "a longer prefix at no cost was left"
