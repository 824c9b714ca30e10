"""Dense operations on CUDA: products by cuBLAS through torch, or by Triton for few rows; the rest by FlashInfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flashinfer
import torch

from gllm.layers.ops.protocols import Activation
from gllm_kernels.triton import skinny

_GATES: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {"silu": flashinfer.activation.silu_and_mul}


class FlashInferOps:
    """Implements `gllm.layers.ops.protocols.Ops` for 16-bit dtypes."""

    def pack_linear(self, weight: torch.Tensor) -> Any:
        return weight

    def linear(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        if bias is None and skinny.fits(x, weight):
            return skinny.linear(x, weight)
        return torch.nn.functional.linear(x, weight, bias)

    def linear_f32(self, x: torch.Tensor, weight: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(x, weight, None).float()

    def gated_linear(
        self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None, activation: Activation
    ) -> torch.Tensor:
        if bias is None and activation == "silu" and skinny.fits(x, weight):
            return skinny.gated_linear(x, weight)
        return self.gate(self.linear(x, weight, bias), activation)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        flashinfer.norm.rmsnorm(x, weight, eps, out=out)
        return out

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        flashinfer.norm.fused_add_rmsnorm(x, residual, weight, eps)
        return x

    def rope(self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
        head_dim = q.shape[-1]
        flashinfer.rope.apply_rope_with_cos_sin_cache_inplace(
            positions, q.flatten(1), k.flatten(1), head_dim, cos_sin, is_neox=True
        )

    def gate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        result: torch.Tensor = _GATES[activation](x)
        return result
