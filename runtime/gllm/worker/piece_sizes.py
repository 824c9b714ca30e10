"""The numbers of tokens for which steps with prompts are captured. No torch: the simulator pads its steps alike."""

from __future__ import annotations

import bisect

MOST_TOKENS = 2048
"""With more tokens a layer takes the device longer than an eager launch takes the host."""


def piece_sizes(max_tokens: int) -> list[int]:
    """Return the numbers of tokens to capture: from 128 tokens on, a step is padded by 12 % at most."""
    sizes = [8, *range(16, 512, 16), *range(512, 1024, 32), *range(1024, 2049, 64)]
    return sizes[: bisect.bisect_left(sizes, min(max_tokens, MOST_TOKENS)) + 1]
