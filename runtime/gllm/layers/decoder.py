"""The pre-norm decoder layer that all families share."""

from __future__ import annotations

from typing import Any

import torch

from gllm.layers.attention import Attention
from gllm.layers.attention_backends.base import AttentionBackend
from gllm.layers.mlp import GatedMLP
from gllm.layers.moe import MoE
from gllm.layers.norm import RMSNorm
from gllm.layers.parameter import Layer


class DecoderLayer(Layer):
    """Attention, then a gated MLP or a mixture of experts, each behind a norm and added to the residual stream.

    GLM-4 also norms what each of them adds: `attention_out_norm`, `mlp_out_norm`.

    A layer's last sum is left to the next norm, which does both in one kernel; so two tensors travel between layers.
    """

    def __init__(
        self,
        input_norm: RMSNorm,
        attention: Attention,
        mlp_norm: RMSNorm,
        mlp: GatedMLP | MoE,
        attention_out_norm: RMSNorm | None = None,
        mlp_out_norm: RMSNorm | None = None,
    ) -> None:
        self.input_norm = input_norm
        self.attention = attention
        self.attention_out_norm = attention_out_norm
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.mlp_out_norm = mlp_out_norm

    def __call__(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        positions: torch.Tensor,
        attention: AttentionBackend,
        plan: Any,
        wanted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x: [n, hidden], what is still to be added to `residual` [n, hidden] (None: x is the stream itself).

        Returns (x, residual) for the next layer; `residual` is updated in place. With `wanted` [w] both hold only the
        rows of these tokens.
        """
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x = self.input_norm.add(x, residual)
        x = self.attention(x, positions, attention, plan, wanted)
        if self.attention_out_norm is not None:
            x = self.attention_out_norm(x)
        if wanted is not None:
            residual = residual[wanted]
        x = self.mlp(self.mlp_norm.add(x, residual))
        return x if self.mlp_out_norm is None else self.mlp_out_norm(x), residual
