"""Root-mean-square norms."""

from __future__ import annotations

import torch

from gllm.layers.context import LayerContext
from gllm.layers.parameter import CheckpointSlice, Layer, Parameter


class RMSNorm(Layer):
    """Norm over the last dimension: hidden states [n, size], or heads [n, heads, size]."""

    def __init__(self, context: LayerContext, prefix: str, size: int, eps: float) -> None:
        self.ops = context.ops
        self.eps = eps
        self.weight = Parameter(CheckpointSlice(f"{prefix}.weight", (size,)))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.rms_norm(x, self.weight.data, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Add x to residual in place, and return the norm of the sum. x [n, size] may be overwritten."""
        return self.ops.add_rms_norm(x, residual, self.weight.data, self.eps)
