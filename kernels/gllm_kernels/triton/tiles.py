"""Which tiles a mixture of experts runs with, by the number of rows an expert has and by the sizes of its matrices."""

from __future__ import annotations

from dataclasses import dataclass

from gllm_kernels.triton.grouped_gemm import Tile


@dataclass(frozen=True, slots=True)
class Plan:
    rows: int
    """Of a block; both products share it."""
    gate_up: Tile
    down: Tile


_GENERAL = (
    (4, Plan(16, Tile(32, 128, 4, 4), Tile(64, 128, 4, 4))),
    (24, Plan(16, Tile(64, 128, 4, 3), Tile(128, 128, 4, 3))),
    (48, Plan(32, Tile(64, 128, 4, 3), Tile(128, 128, 4, 3))),
    (128, Plan(64, Tile(64, 64, 4, 4), Tile(128, 64, 4, 4))),
    (1 << 62, Plan(128, Tile(128, 64, 8, 3), Tile(256, 64, 8, 3))),
)
"""(rows an expert up to which, what)."""


def choose(pairs: int, num_experts: int, hidden: int, inner: int) -> Plan:
    """pairs: (token, expert) pairs of the batch."""
    rows = pairs / num_experts
    return next(plan for most, plan in _table(hidden, inner) if rows <= most)


def plans(hidden: int, inner: int) -> list[Plan]:
    """All that `choose` may return for experts of these sizes."""
    return [plan for _, plan in _table(hidden, inner)]


def _table(hidden: int, inner: int) -> tuple[tuple[int, Plan], ...]:
    return _GENERAL
