"""The numbers of tokens for which steps with prompts are captured. No torch: the simulator pads its steps alike."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

MOST_TOKENS = 2048
"""With more tokens a layer takes the device longer than an eager launch takes the host."""
_TOLERANCE = 0.03
"""An efficient size computes up to this share fewer tokens per second than a smaller one."""


def piece_sizes(max_tokens: int) -> list[int]:
    """Return the numbers of tokens to capture: from 128 tokens on, a step is padded by 12 % at most."""
    sizes = [8, *range(16, 512, 16), *range(512, 1024, 32), *range(1024, 2049, 64)]
    return sizes[: bisect.bisect_left(sizes, min(max_tokens, MOST_TOKENS)) + 1]


def efficient_sizes(sizes: Sequence[int], seconds: Sequence[float]) -> list[int]:
    """Return the sizes that compute about as many tokens per second as any smaller one, and the largest.

    sizes: in ascending order. seconds: the time of each.
    """
    efficient, best = [], 0.0
    for size, time in zip(sizes, seconds, strict=True):
        best = max(best, size / time)
        if size / time >= (1.0 - _TOLERANCE) * best or size == sizes[-1]:
            efficient.append(size)
    return efficient
