"""Steps with prompts end on the sizes to which they are padded anyway. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def on_border(chunk: int, beside: int, sizes: Sequence[int], most: int | None) -> int:
    """Return the chunk, extended to at most `most` tokens, or shortened if that is None."""
    return shortened(chunk, beside, sizes) if most is None else extended(chunk, beside, sizes, most)


def shortened(chunk: int, beside: int, sizes: Sequence[int]) -> int:
    """Return the longest part of a chunk beside `beside` tokens with which the step has one of the sizes.

    Captured steps are padded to the next size, so the tokens above a size cost as much as all up to the next one. The
    whole chunk is returned if the step is larger than all sizes, or if less than half of the chunk would be left.

    Args:
        sizes: in ascending order; empty: steps are not padded.
    """
    tokens = beside + chunk
    if not sizes or tokens > sizes[-1]:
        return chunk
    index = bisect_right(sizes, tokens) - 1
    shorter = sizes[index] - beside if index >= 0 else 0
    return shorter if 2 * shorter >= chunk else chunk


def extended(chunk: int, beside: int, sizes: Sequence[int], most: int) -> int:
    """Return the chunk with the tokens that cost nothing, up to `most`: those up to the next size."""
    index = bisect_left(sizes, beside + chunk)
    return min(sizes[index] - beside, most) if index < len(sizes) else chunk
