"""A mixture of experts on CUDA: group the tokens, two grouped products, and the sum over each token's experts."""

from __future__ import annotations

from functools import cache

import torch

from gllm_kernels.triton import tiles
from gllm_kernels.triton.group import group
from gllm_kernels.triton.grouped_gemm import add_pairs, down, gate_up

_table_for = cache(tiles.table_for)


def product(
    x: torch.Tensor,
    gate_up_weight: torch.Tensor,
    down_weight: torch.Tensor,
    chosen: torch.Tensor,
    weights: torch.Tensor,
    tiling: tiles.Tiling | None = None,
) -> torch.Tensor:
    """x: [n, hidden] 16-bit, rows may be strided; gate_up_weight: [experts, 2 * inner, hidden], gate first;
    down_weight: [experts, hidden, inner]; chosen: [n, k] int32, -1 for none; weights: [n, k] float32.

    Returns [n, hidden]. Five launches for a decode step, six for more pairs, for any routing. The host never waits.
    """
    num_experts, hidden, inner = down_weight.shape
    n, k = chosen.shape
    tiling = tiling or tiles.choose(n * k, num_experts, _table_for(hidden, inner))
    groups = group(chosen, num_experts, tiling.rows)
    activated = gate_up(x, gate_up_weight, groups, k, tiling.gate_up)
    parts = down(activated, down_weight, weights, groups, tiling.down)
    return add_pairs(parts, chosen)
