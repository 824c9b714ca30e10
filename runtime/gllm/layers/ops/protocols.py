"""The math of layers, behind two interfaces with an implementation for each kind of device.

Dense operations: `TorchOps` (any device, the reference), `NativeOps` (CPU, C++ kernels), `FlashInferOps` (CUDA).
Mixtures of experts: `TorchExperts` (any device, the reference), `NativeExperts` (CPU), `TritonExperts` (CUDA, 16-bit).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

Activation = Literal["silu"]
"""The activation of a gated MLP. All implementations of `Ops` have it."""


class Ops(Protocol):
    """All tensors have their last dimension contiguous; n is the number of tokens."""

    def pack_linear(self, weight: torch.Tensor) -> Any:
        """Turn a weight [out, in] into the layout that `linear` reads; called once, at load.

        The caller drops `weight` afterwards, so the result may be the same tensor or a repacked copy.
        """

    def linear(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        """Return x [n, in] times the packed weight, plus bias [out]: [n, out] in x's dtype."""

    def linear_f32(self, x: torch.Tensor, weight: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits: `linear` without a bias, in float32, [n, out].

        out: [n or more, out] float32, memory that the result may take, where allocating it is expensive.
        """

    def gated_linear(
        self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None, activation: Activation
    ) -> torch.Tensor:
        """Return `gate(linear(x, weight, bias), activation)`, [n, size], for a weight [2 * size, in].

        It may be one kernel.
        """

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Return x [n, size] / rms(x) * weight, with statistics in float32. For norms of each head, x is
        [n, heads, head_dim] (rows may be strided) and weight [head_dim]."""

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Add x to residual in place, and return the norm of the sum; both [n, size]. May reuse x's memory."""

    def rope(self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
        """Rotate q [n, heads, head_dim] and k [n, kv_heads, head_dim] in place (NeoX halves).

        positions: [n] int64; cos_sin: [rows, rotary_dim] float32, cosines then sines, rotary_dim / 2 each.
        Dimensions past rotary_dim stay as they are.
        """

    def gate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        """Return activation(x[:, :size]) * x[:, size:] for x [n, 2 * size]: [n, size]."""


class ExpertOps(Protocol):
    """n: the number of tokens. k: the number of experts that each token passes through."""

    def new_experts(self, count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
        """Allocate a matrix of `shape` [out, in] for each of `count` experts. The result has `nbytes`."""

    def set_expert(self, experts: Any, index: int, weight: torch.Tensor) -> None:
        """Put one expert's matrix into what `new_experts` returned, in the layout that `product` reads."""

    def route(self, logits: torch.Tensor, k: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose the k most likely experts for each row of logits [n, num_experts], of any float type.

        Returns (experts [n, k] int32, weights [n, k] float32). Weights are the softmax over all experts, with
        `renormalize` scaled to a sum of 1.
        """

    def product(
        self, x: torch.Tensor, gate_up: Any, down: Any, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum over a token's experts e of weight * down[e](silu(gate[e](x)) * up[e](x)).

        x: [n, hidden]; gate_up, down: experts of [2 * intermediate, hidden] (gate first) and [hidden, intermediate];
        chosen: [n, k] int32, where -1 adds nothing; weights: [n, k] float32. Returns [n, hidden] in x's dtype. A
        token's result does not depend on the other tokens.
        """
