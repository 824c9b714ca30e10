"""The pre-norm decoder layer that most families share."""

from __future__ import annotations

from typing import Any

import torch

from gllm.attention.base import AttentionBackend
from gllm.layers.attention import Attention
from gllm.layers.mlp import GatedMLP
from gllm.layers.norm import RMSNorm
from gllm.layers.parameter import Layer


class DecoderLayer(Layer):
    """Attention, then a gated MLP, each behind a norm and added to the residual stream.

    A layer's last sum is left to the next norm, which does both in one kernel; so two tensors travel between layers.
    """

    def __init__(self, input_norm: RMSNorm, attention: Attention, mlp_norm: RMSNorm, mlp: GatedMLP) -> None:
        self.input_norm = input_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

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
        if wanted is not None:
            residual = residual[wanted]
        x = self.mlp_norm.add(x, residual)
        return self.mlp(x), residual
