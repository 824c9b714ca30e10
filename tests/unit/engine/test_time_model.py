"""The time model finds the coefficients of its data, and survives any input."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.stage_model import StageModel, TimeModel
from gllm.engine.time_model import PRIOR, Cost, Work, chunk_pairs

TRUE = Cost(a=4e-3, b=2e-5, c=1e-9, d=2e-8, e=5e-6)
KNEED = Cost(a=5e-3, b=1e-6, c=1e-9, d=2e-8, e=5e-6, g=2e-5)
"""A GPU: below the knee tokens cost next to nothing."""
WORKS = st.builds(
    Work,
    prefill_tokens=st.integers(0, 10_000),
    decode_rows=st.integers(0, 1000),
    attention=st.floats(0, 1e9),
    decode_context=st.integers(0, 10**7),
    sampled_rows=st.integers(0, 1000),
)


def random_work(rng: random.Random) -> Work:
    rows, tokens = rng.randrange(0, 256), rng.choice([0, rng.randrange(1, 2048)])
    rows = rows or 1
    return Work(
        prefill_tokens=tokens,
        decode_rows=rows,
        attention=chunk_pairs(rng.randrange(0, 8000), tokens),
        decode_context=rows * rng.randrange(100, 4000),
        sampled_rows=rows + rng.randrange(0, 3),
    )


def test_pairs_of_a_chunk_are_counted_token_by_token() -> None:
    assert chunk_pairs(10, 4) == 11 + 12 + 13 + 14


def test_chunks_add_up() -> None:
    assert TRUE.chunk(0, 700) + TRUE.chunk(700, 300) == pytest.approx(TRUE.chunk(0, 1000))


@given(
    seconds=st.floats(0, 1),
    start=st.integers(0, 100_000),
    b=st.floats(1e-7, 1e-2),
    c=st.floats(0, 1e-6),
    g=st.floats(0, 1e-2),
    beside=st.integers(0, 300),
)
def test_the_longest_chunk_within_a_time(seconds: float, start: int, b: float, c: float, g: float, beside: int) -> None:
    cost = Cost(a=1.0, b=b, c=c, d=0.0, e=0.0, g=g)
    tokens = cost.tokens_within(seconds, start, beside)
    assert cost.chunk(start, tokens, beside) <= seconds * (1 + 1e-6)
    assert cost.chunk(start, tokens + 1, beside) >= seconds * (1 - 1e-6)


@given(work=WORKS, more=WORKS, b=st.floats(0, 1e-2), c=st.floats(0, 1e-6), g=st.floats(0, 1e-2))
def test_more_work_never_takes_less_time(work: Work, more: Work, b: float, c: float, g: float) -> None:
    cost = Cost(a=1e-3, b=b, c=c, d=1e-8, e=1e-6, g=g)
    both = Work(
        work.prefill_tokens + more.prefill_tokens,
        work.decode_rows + more.decode_rows,
        work.attention + more.attention,
        work.decode_context + more.decode_context,
        work.sampled_rows + more.sampled_rows,
    )
    assert cost.predict(both) >= cost.predict(work)


def test_chunks_beside_each_other_add_up() -> None:
    together = KNEED.chunk(0, 100, 20) + KNEED.chunk(100, 200, 120)
    assert together == pytest.approx(KNEED.chunk(0, 300, 20))
    work = Work(prefill_tokens=300, decode_rows=20, attention=chunk_pairs(0, 300))
    assert KNEED.predict(work) - KNEED.predict(Work(decode_rows=20)) == pytest.approx(together)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_coefficients_are_recovered(noise: float) -> None:
    rng = random.Random(1)
    model = StageModel()
    for _ in range(1500):
        work = random_work(rng)
        model.observe(work, TRUE.predict(work) * rng.lognormvariate(0, noise))
    found = model.cost
    for name in ("a", "b", "c", "d"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.1 + noise), name
    assert model.error < 0.02 + 1.2 * noise


def test_the_knee_is_found() -> None:
    """Beyond the tokens of a long chunk, a step costs less than the reading of the weights."""
    rng = random.Random(6)
    model = StageModel()
    for _ in range(1500):
        work = random_work(rng)
        model.observe(work, KNEED.predict(work) * rng.lognormvariate(0, 0.02))
    assert model.cost.prefill_token == pytest.approx(KNEED.prefill_token, rel=0.1)
    assert model.cost.a == pytest.approx(KNEED.a, rel=0.1)
    assert model.cost.prefill_step == pytest.approx(KNEED.prefill_step, rel=0.2)


def test_from_the_first_step_on_the_scale_is_right() -> None:
    model = StageModel()
    work = Work(prefill_tokens=300, decode_rows=50, attention=1e5, decode_context=20_000, sampled_rows=51)
    model.observe(work, 0.25)
    assert model.cost.predict(work) == pytest.approx(0.25, rel=1e-3)
    assert model.cost.prefill_token == pytest.approx(0.25 / PRIOR.predict(work), rel=0.1)


def test_outliers_hardly_matter() -> None:
    rng = random.Random(2)
    model = StageModel()
    for step in range(1500):
        work = random_work(rng)
        stall = 50.0 if step % 40 == 39 else 1.0
        model.observe(work, TRUE.predict(work) * stall * rng.lognormvariate(0, 0.02))
    usual = Work(prefill_tokens=500, decode_rows=64, attention=5e5, decode_context=64_000, sampled_rows=64)
    assert model.cost.predict(usual) == pytest.approx(TRUE.predict(usual), rel=0.1)


def test_a_machine_that_slows_down_is_followed() -> None:
    rng = random.Random(3)
    model = StageModel()
    for step in range(3000):
        work = random_work(rng)
        model.observe(work, TRUE.predict(work) * (1.0 if step < 1500 else 1.6))
    usual = random_work(rng)
    assert model.cost.predict(usual) == pytest.approx(1.6 * TRUE.predict(usual), rel=0.1)


def test_without_data_a_coefficient_does_not_change() -> None:
    """After thousands of decode steps the cost of a long prompt is still known."""
    rng = random.Random(4)
    model = StageModel()
    for _ in range(1500):
        work = random_work(rng)
        model.observe(work, TRUE.predict(work))
    for _ in range(5000):
        rows = rng.randrange(1, 256)
        work = Work(decode_rows=rows, decode_context=rows * rng.randrange(100, 4000), sampled_rows=rows)
        model.observe(work, TRUE.predict(work))
    assert model.cost.c == pytest.approx(TRUE.c, rel=0.15)


def test_tokens_are_never_free() -> None:
    """Decodes of a GPU under its memory-bound floor take the same time for any number of rows."""
    model = StageModel()
    for step in range(500):
        rows = 1 + step % 64
        model.observe(Work(decode_rows=rows, decode_context=100 * rows, sampled_rows=rows), 0.01)
    assert model.cost.b > 0


@given(
    steps=st.lists(
        st.tuples(
            WORKS,
            st.one_of(
                st.floats(1e-6, 100.0),
                st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300, 5e-324]),
            ),
        ),
        max_size=60,
    )
)
def test_it_survives_anything(steps: list[tuple[Work, float]]) -> None:
    model = TimeModel(2)
    for number, (work, elapsed) in enumerate(steps):
        model.observe(number % 2, work, elapsed)
    for cost in (model.cost, *(stage.cost for stage in model.stages)):
        for name in "abcdeg":
            value = getattr(cost, name)
            assert 0.0 <= value < math.inf
        assert cost.b > 0
    assert model.predict(Work(decode_rows=1)) > 0


def test_the_slowest_stage_sets_the_cost() -> None:
    rng = random.Random(5)
    model = TimeModel(3)
    for _ in range(300):
        work = random_work(rng)
        for stage, factor in enumerate((1.0, 1.5, 0.7)):
            model.observe(stage, work, factor * TRUE.predict(work))
    work = random_work(rng)
    assert model.cost.predict(work) == pytest.approx(1.5 * TRUE.predict(work), rel=0.1)
    assert model.predict(work) == pytest.approx(1.5 * TRUE.predict(work), rel=0.1)


def test_decodes_do_not_distort_what_prefill_costs() -> None:
    """Two H200 with a 32B model: sixty short prompts, then a thousand decodes whose times hardly vary."""
    rng = random.Random(6)
    gpu = Cost(a=8.4e-3, b=1e-5, c=1.8e-9, d=4e-8, e=1e-5, g=3.4e-5)
    model = StageModel()
    for rows in range(30):
        prompts, tokens = rng.randrange(1, 6), rng.randrange(30, 600)
        work = Work(prompts * tokens, rows + 1, prompts * chunk_pairs(0, tokens), 250 * (rows + 1), rows + prompts)
        padded = replace(work, prefill_tokens=-(-work.prefill_tokens // 128) * 128)
        model.observe(work, gpu.predict(padded) * rng.lognormvariate(0, 0.02))
    for step in range(1000):
        decodes = Work(decode_rows=30 - step // 40, decode_context=9000, sampled_rows=30 - step // 40)
        model.observe(decodes, gpu.predict(decodes) * 1.06)
    for start in range(0, 8000, 800):
        work = Work(prefill_tokens=800, attention=chunk_pairs(start, 800), sampled_rows=0)
        if start >= 2400:
            assert model.cost.predict(work) == pytest.approx(gpu.predict(work), rel=0.15)
        model.observe(work, gpu.predict(work))
