"""The reference implementation of `Ops` in plain torch: any device, and in float32 the arithmetic of transformers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from gllm.layers.ops.protocols import Activation

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {"silu": F.silu}


class TorchOps:
    """See `gllm.layers.ops.protocols.Ops` for the shapes."""

    def pack_linear(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def linear_f32(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(x, weight, None).float()

    def gated_linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation
    ) -> torch.Tensor:
        return self.gate(self.linear(x, weight, bias), activation)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        # As in transformers, the norm is rounded to x's dtype before the weight is applied.
        return weight * wide.to(x.dtype)

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        residual.add_(x)
        return self.rms_norm(residual, weight, eps)

    def rope(self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
        # [n, 1, rotary_dim / 2] each: all heads of a token share their angles.
        cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
        half = cos.shape[-1]
        for x in (q, k):
            first, second = x[..., :half].float(), x[..., half : 2 * half].float()
            rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
            x[..., : 2 * half] = rotated

    def gate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return _ACTIVATIONS[activation](gate) * up
