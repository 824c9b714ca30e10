"""Which captured sizes are efficient."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gllm.worker.piece_sizes import efficient_sizes, piece_sizes


def test_sizes_behind_a_step_of_the_tiles_are_left_out() -> None:
    """Milliseconds of 32 layers of Qwen2.5-32B on an H200."""
    measured = {256: 15.0, 288: 17.6, 352: 22.8, 512: 27.8, 544: 30.9, 768: 40.1, 832: 51.7, 960: 50.4, 1024: 52.3}
    assert efficient_sizes(list(measured), list(measured.values())) == [256, 512, 768, 960, 1024]


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=60))
def test_the_best_and_the_largest_size_are_efficient(seconds: list[float]) -> None:
    sizes = piece_sizes(2048)[: len(seconds)]
    efficient = efficient_sizes(sizes, seconds)
    assert efficient == sorted(set(efficient) & set(sizes))
    assert sizes[-1] in efficient
    assert max(zip(sizes, seconds, strict=True), key=lambda pair: pair[0] / pair[1])[0] in efficient
