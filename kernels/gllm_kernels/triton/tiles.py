"""The tile sizes of a mixture of experts, chosen by rows per expert and by the sizes of its matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gllm_kernels.triton.grouped_gemm import Tile
from gllm_kernels.triton.tuned import TUNED


@dataclass(frozen=True, slots=True)
class Tiling:
    rows: int
    """Rows of a block, for both products."""
    gate_up: Tile
    down: Tile


Table = tuple[tuple[float, Tiling], ...]
"""(most rows per expert, tiling), in ascending order, the last without a limit."""

GENERAL: Table = (
    (4, Tiling(16, Tile(32, 128, 4, 4), Tile(64, 128, 4, 4))),
    (24, Tiling(16, Tile(64, 128, 4, 3), Tile(128, 128, 4, 3))),
    (48, Tiling(32, Tile(64, 128, 4, 3), Tile(128, 128, 4, 3))),
    (128, Tiling(64, Tile(64, 64, 4, 4), Tile(128, 64, 4, 4))),
    (math.inf, Tiling(128, Tile(128, 64, 8, 3), Tile(256, 64, 8, 3))),
)
"""Not tuned: the baseline of `benchmarks/gpu_experts.py`."""


def choose(pairs: int, num_experts: int, table: Table) -> Tiling:
    """pairs: the number of (token, expert) pairs of the batch."""
    rows = pairs / num_experts
    return next(tiling for most, tiling in table if rows <= most)


def table_for(hidden: int, inner: int) -> Table:
    """The table tuned for experts of these sizes, else for the most similar ones."""

    def distance(sizes: tuple[int, int]) -> float:
        return abs(math.log(sizes[0] / hidden)) + abs(math.log(sizes[1] / inner))

    entries = TUNED[min(TUNED, key=distance)]
    return tuple((most, Tiling(rows, Tile(*wide), Tile(*narrow))) for most, rows, wide, narrow in entries)
