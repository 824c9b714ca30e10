"""The experts of one layer that this rank holds, or its slice of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gllm.layers.context import LayerContext
from gllm.layers.parameter import ALL, CheckpointSlice, ExpertParameter, Layer
from gllm.models.config import MoEConfig
from gllm.parallel.layout import rank_slice


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """The checkpoint's names of the three matrices of an expert."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


class Experts(Layer):
    """The ranks of the tensor group form `ep` expert groups of neighbouring ranks. Each expert group owns an equal
    share of the experts and divides each of them among its ranks like a gated MLP. So a result is partial: the caller
    sums it over the ranks of the expert group.
    """

    def __init__(
        self, context: LayerContext, prefix: str, hidden_size: int, moe: MoEConfig, names: ExpertNames
    ) -> None:
        self.ops = context.experts
        expert_group, rank = divmod(context.group.rank, context.group.size // context.ep)
        owned = range(moe.num_experts)[rank_slice(moe.num_experts, context.ep, expert_group)]
        rows = rank_slice(moe.intermediate_size, context.group.size // context.ep, rank)
        wide, narrow = (moe.intermediate_size, hidden_size), (hidden_size, moe.intermediate_size)
        self.gate_up = ExpertParameter(
            [
                [CheckpointSlice(f"{prefix}.{expert}.{name}.weight", wide, rows) for name in (names.gate, names.up)]
                for expert in owned
            ]
        )
        self.down = ExpertParameter(
            [[CheckpointSlice(f"{prefix}.{expert}.{names.down}.weight", narrow, ALL, rows)] for expert in owned]
        )

    def __call__(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x: [n, hidden]. Returns [n, hidden], this rank's part of the weighted sums.

        chosen: [n, k] int32, counted from the first owned expert, -1: not owned; weights: [n, k] float32.
        """
        return self.ops.product(x, self.gate_up.data, self.down.data, chosen, weights)
