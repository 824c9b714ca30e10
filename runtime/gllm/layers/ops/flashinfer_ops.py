"""Dense operations on CUDA: cuBLAS products through torch, the rest through FlashInfer."""

from __future__ import annotations

from typing import Any

import flashinfer
import torch


class FlashInferOps:
    """Implements `gllm.layers.ops.protocols.Ops` for 16-bit dtypes."""

    def pack_linear(self, weight: torch.Tensor) -> Any:
        return weight

    def linear(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    def linear_f32(self, x: torch.Tensor, weight: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(x, weight, None).float()

    def linear_silu_and_mul(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        return self.silu_and_mul(self.linear(x, weight, bias))

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

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = flashinfer.activation.silu_and_mul(x)
        return result
