"""The reference implementation of `ExpertOps` in plain torch: in float32 the arithmetic of transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F


class TorchExperts:
    """See `gllm.layers.ops.protocols.ExpertOps` for the shapes. Expert by expert; on CUDA it waits for the device."""

    def new_experts(self, count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(count, *shape, dtype=dtype, device=device)

    def set_expert(self, experts: torch.Tensor, index: int, weight: torch.Tensor) -> None:
        experts[index] = weight

    def route(self, logits: torch.Tensor, k: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = torch.softmax(logits.float(), dim=-1).topk(k, dim=-1)
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return chosen.to(torch.int32), weights

    def product(
        self,
        x: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        chosen: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        for expert in sorted({*chosen.flatten().tolist()} - {-1}):
            token, nth = torch.where(chosen == expert)
            gate, up = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
            result = F.linear(F.silu(gate) * up, down[expert]) * weights[token, nth, None]
            out.index_add_(0, token, result.to(x.dtype))
        return out
