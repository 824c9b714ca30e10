"""The pre-norm decoder layer that all families share."""

from __future__ import annotations

import torch

from gllm.layers.attention import Attention
from gllm.layers.mlp import GatedMLP
from gllm.layers.moe import MoE
from gllm.layers.norm import RMSNorm
from gllm.layers.parameter import Layer
from gllm.layers.step import Step


class DecoderLayer(Layer):
    """Attention, then a gated MLP or a mixture of experts, each behind a norm and added to the residual stream.

    The next layer's norm does a layer's last sum in the same kernel, so two tensors travel between layers.
    """

    is_last = False
    """Whether it is the model's last layer: after its attention, only the tokens of `Step.logits_indices` go on."""

    def __init__(
        self,
        input_norm: RMSNorm,
        attention: Attention,
        mlp_norm: RMSNorm,
        mlp: GatedMLP | MoE,
        attention_out_norm: RMSNorm | None = None,
        mlp_out_norm: RMSNorm | None = None,
    ) -> None:
        """attention_out_norm, mlp_out_norm: norms of the outputs before they join the stream; None: there are none."""
        self.input_norm = input_norm
        self.attention = attention
        self.attention_out_norm = attention_out_norm
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.mlp_out_norm = mlp_out_norm

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """x: [n, hidden], not yet added to `residual` [n, hidden]; residual None: x is the residual stream itself.

        Returns (x, residual) for the next layer; `residual` is updated in place. The last layer returns only the rows
        of `step.logits_indices`, if they are set.
        """
        indices = step.logits_indices if self.is_last else None
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x = self.input_norm.add(x, residual)
        x = self.attention(x, step, indices)
        if self.attention_out_norm is not None:
            x = self.attention_out_norm(x)
        if indices is not None:
            residual = residual[indices]
        x = self.mlp(self.mlp_norm.add(x, residual))
        return x if self.mlp_out_norm is None else self.mlp_out_norm(x), residual
