"""The numbers of tokens for which steps with prompts are captured. No torch: the simulator pads its steps alike."""

from __future__ import annotations

import bisect

MOST_TOKENS = 2048
"""With more tokens a layer takes the device longer than an eager launch takes the host."""


def piece_sizes(max_tokens: int) -> list[int]:
    """Return the numbers of tokens to capture: a step up to `max_tokens` or `MOST_TOKENS` is padded by 25 % at most."""
    sizes = [8, 16, 24, *range(32, 128, 16), *range(128, 512, 32), *range(512, 1024, 64), *range(1024, 2049, 128)]
    return sizes[: bisect.bisect_left(sizes, min(max_tokens, MOST_TOKENS)) + 1]
