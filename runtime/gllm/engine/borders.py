"""Where a micro-batch with a part of a prompt ends. Pure.

Captured steps are padded to the next of their sizes, so the tokens above a size cost as much as all up to the next one.
And not all sizes are equally good: the tiles of matrix products make some of them slow, by up to 30 % (Qwen2.5-32B on
an H200: 768 tokens take 40 ms, 832 take 52). Workers measure their sizes and report the efficient ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_NEAR = 4 / 3
"""An efficient size is taken if the chunk changes by less than this factor."""


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Numbers of tokens of steps with prompts, each ascending. Empty: steps are not captured."""

    captured: tuple[int, ...] = ()
    """The sizes to which steps are padded."""
    efficient: tuple[int, ...] = ()
    """Those of them that compute the most tokens per second."""


NO_SIZES = StepSizes()


def on_border(chunk: int, beside: int, sizes: StepSizes, most: int | None) -> int:
    """Return the chunk beside `beside` tokens so that the step has a good size.

    most: the longest chunk. None: it may only be shortened.
    """
    if most is None:
        return shortened(shortened(chunk, beside, sizes.efficient), beside, sizes.captured)
    return extended(nearest(chunk, beside, sizes.efficient, most), beside, sizes.captured, most)


def shortened(chunk: int, beside: int, sizes: Sequence[int]) -> int:
    """Return the longest part of the chunk with which the step has one of the sizes.

    The whole chunk is returned if the step is larger than all sizes, or if less than half of the chunk would be left.
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


def nearest(chunk: int, beside: int, sizes: Sequence[int], most: int) -> int:
    """Return the chunk of up to `most` tokens with which the step has one of the sizes, and that changes least.

    The chunk itself is returned if the step is larger than all sizes, or if no size is near.
    """
    index = bisect_left(sizes, beside + chunk)
    if index == len(sizes):
        return chunk
    near = [size - beside for size in sizes[max(index - 1, 0) : index + 1] if 0 < size - beside <= most]
    best = min(near, key=lambda other: max(other / chunk, chunk / other), default=chunk)
    return best if max(best / chunk, chunk / best) < _NEAR else chunk
