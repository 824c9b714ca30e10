"""The sizes of piecewise CUDA graphs; that they compute the same as eager steps is in tests/gpu."""

from __future__ import annotations

import bisect

import pytest

from gllm.worker.piece_sizes import MOST_TOKENS, piece_sizes


@pytest.mark.parametrize("max_tokens", [1, 8, 100, 700, 2048, 10000])
def test_every_step_up_to_the_largest_fits_a_size_that_is_little_larger(max_tokens: int) -> None:
    sizes = piece_sizes(max_tokens)
    assert sizes == sorted(set(sizes))
    most = min(max_tokens, MOST_TOKENS)
    assert most <= sizes[-1] <= MOST_TOKENS
    for tokens in range(1, most + 1):
        padded = sizes[bisect.bisect_left(sizes, tokens)]
        assert padded <= max(1.125 * tokens, tokens + 15)
