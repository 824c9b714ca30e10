"""Feed-forward part of a decoder layer."""

from __future__ import annotations

import torch

from gllm.layers.context import LayerContext
from gllm.layers.linear import GateUpLinear, OutputLinear
from gllm.layers.ops.protocols import Activation
from gllm.layers.parameter import Layer


class GatedMLP(Layer):
    """down(activation(gate(x)) * up(x)), x: [n, hidden].

    fused: the checkpoint's one tensor with the rows of gate and up. `partial` leaves the all-reduce to the caller.
    """

    def __init__(
        self,
        context: LayerContext,
        prefix: str,
        hidden_size: int,
        intermediate_size: int,
        bias: bool = False,
        *,
        activation: Activation = "silu",
        fused: str = "",
        down: str = "down_proj",
        partial: bool = False,
    ) -> None:
        self.gate_up = GateUpLinear(context, prefix, hidden_size, intermediate_size, bias, activation, fused)
        self.down = OutputLinear(context, f"{prefix}.{down}", intermediate_size, hidden_size, bias, partial)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.gate_up(x))
