"""A mixture of experts on CUDA by our Triton kernels."""

from __future__ import annotations

import torch

from gllm.layers.ops.torch_experts import TorchExperts
from gllm_kernels.triton import experts, tiles
from gllm_kernels.triton.route import route


class TritonExperts(TorchExperts):
    """`ExpertOps` for 16-bit dtypes; weights are stacked as in `TorchExperts`. Never waits for the device."""

    def __init__(self) -> None:
        self._compiled: set[tuple[int, ...]] = set()

    def route(self, logits: torch.Tensor, k: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return route(logits, k, renormalize)

    def product(
        self,
        x: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        chosen: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        sizes = (*down.shape, chosen.shape[1])
        if sizes not in self._compiled:
            # Compile all tilings now, at start-up, and none while serving.
            self._compiled.add(sizes)
            for _, tiling in tiles.table_for(down.shape[1], down.shape[2]):
                experts.product(x[:1], gate_up, down, chosen[:1], weights[:1], tiling)
        return experts.product(x, gate_up, down, chosen, weights)
