"""Steps with prompts end on the sizes to which they are padded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.borders import StepSizes, extended, nearest, on_border, shortened

SIZES = [8, 16, 32, 64, 96]


@pytest.mark.parametrize(
    ("chunk", "beside", "expected"),
    [
        (40, 0, 32),
        (32, 0, 32),
        (40, 10, 22),
        (95, 0, 64),
        (96, 1, 96),  # larger than all sizes
        (5, 0, 5),  # below all sizes
        (40, 31, 33),
        (32, 63, 32),  # a chunk of one token would be left
        (4, 30, 2),
    ],
)
def test_a_chunk_ends_on_the_size_below(chunk: int, beside: int, expected: int) -> None:
    assert shortened(chunk, beside, SIZES) == expected


@given(chunk=st.integers(1, 200), beside=st.integers(0, 200))
def test_at_least_half_of_a_chunk_is_left(chunk: int, beside: int) -> None:
    shorter = shortened(chunk, beside, SIZES)
    assert chunk / 2 <= shorter <= chunk
    assert shorter == chunk or beside + shorter in SIZES
    assert shortened(chunk, beside, []) == chunk


@given(chunk=st.integers(1, 200), beside=st.integers(0, 200), more=st.integers(0, 100))
def test_a_chunk_grows_to_the_next_size(chunk: int, beside: int, more: int) -> None:
    longer = extended(chunk, beside, SIZES, chunk + more)
    assert chunk <= longer <= chunk + more
    if longer > chunk:
        assert beside + longer <= next(size for size in SIZES if size >= beside + chunk)
        assert longer == chunk + more or beside + longer in SIZES
    assert extended(chunk, beside, [], chunk + more) == chunk


@pytest.mark.parametrize(
    ("chunk", "beside", "most", "expected"),
    [
        (70, 0, 200, 64),
        (90, 0, 200, 96),
        (90, 0, 94, 90),  # 96 are not allowed, and 64 would be a third less
        (70, 20, 200, 76),
        (97, 0, 200, 97),  # larger than all sizes
        (46, 0, 200, 46),  # no size is near
        (40, 60, 200, 40),
    ],
)
def test_a_chunk_goes_to_the_nearest_size(chunk: int, beside: int, most: int, expected: int) -> None:
    assert nearest(chunk, beside, SIZES, most) == expected


@given(chunk=st.integers(1, 200), beside=st.integers(0, 200), more=st.integers(0, 100))
def test_on_a_border_a_chunk_stays_within_its_limits(chunk: int, beside: int, more: int) -> None:
    sizes = StepSizes((8, 16, 32, 48, 64, 80, 96), (16, 32, 64, 96))
    shorter = on_border(chunk, beside, sizes, None)
    assert chunk / 4 <= shorter <= chunk
    longer = on_border(chunk, beside, sizes, chunk + more)
    assert 0.75 * chunk - 1 <= longer <= chunk + more
    if beside + chunk in sizes.efficient:
        assert shorter == longer == chunk
