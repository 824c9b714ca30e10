"""Routing and products of a mixture of experts, behind one interface with an implementation for each kind of device.

`TorchExperts` (any device, the reference), `NativeExperts` (CPU, C++ kernels), `TritonExperts` (CUDA, 16-bit).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class ExpertOps(Protocol):
    """n is the number of tokens, k of experts that each of them passes through."""

    def new_experts(self, count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
        """Room for a matrix of `shape` [out, in] of each of `count` experts; has `nbytes`."""

    def set_expert(self, experts: Any, index: int, weight: torch.Tensor) -> None:
        """Put one expert's matrix into what `new_experts` returned, in the layout that `product` reads."""

    def route(self, logits: torch.Tensor, k: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The k likeliest experts of each row of logits [n, num_experts], of any float type.

        Returns (experts [n, k] int32, weights [n, k] float32). Weights are the softmax over all experts, with
        `renormalize` scaled to a sum of 1.
        """

    def product(
        self, x: torch.Tensor, gate_up: Any, down: Any, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Sum over a token's experts e of weight * down[e](silu(gate[e](x)) * up[e](x)).

        x: [n, hidden]; gate_up, down: experts of [2 * intermediate, hidden] (gate first) and [hidden, intermediate];
        chosen: [n, k] int32, where -1 adds nothing; weights: [n, k] float32. Returns [n, hidden] in x's dtype. A
        token's result does not depend on which other tokens there are.
        """
