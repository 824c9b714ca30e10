"""Which tiles a mixture of experts runs with, by the number of rows an expert has and by the sizes of its matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gllm_kernels.triton.grouped_gemm import Tile
from gllm_kernels.triton.tuned import TUNED


@dataclass(frozen=True, slots=True)
class Plan:
    rows: int
    """Of a block; both products share it."""
    gate_up: Tile
    down: Tile


Table = tuple[tuple[float, Plan], ...]
"""(rows an expert up to which, what), the last without a limit."""

GENERAL: Table = (
    (4, Plan(16, Tile(32, 128, 4, 4), Tile(64, 128, 4, 4))),
    (24, Plan(16, Tile(64, 128, 4, 3), Tile(128, 128, 4, 3))),
    (48, Plan(32, Tile(64, 128, 4, 3), Tile(128, 128, 4, 3))),
    (128, Plan(64, Tile(64, 64, 4, 4), Tile(128, 64, 4, 4))),
    (math.inf, Plan(128, Tile(128, 64, 8, 3), Tile(256, 64, 8, 3))),
)
"""A guess, to which `benchmarks/gpu_experts.py` compares what it finds."""


def choose(pairs: int, num_experts: int, table: Table) -> Plan:
    """pairs: (token, expert) pairs of the batch."""
    rows = pairs / num_experts
    return next(plan for most, plan in table if rows <= most)


def table_for(hidden: int, inner: int) -> Table:
    """What was tuned for experts of these sizes, else for those that are most alike."""

    def distance(sizes: tuple[int, int]) -> float:
        return abs(math.log(sizes[0] / hidden)) + abs(math.log(sizes[1] / inner))

    entries = TUNED[min(TUNED, key=distance)]
    return tuple((most, Plan(rows, Tile(*wide), Tile(*narrow))) for most, rows, wide, narrow in entries)
