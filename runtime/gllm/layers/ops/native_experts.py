"""A mixture of experts on CPU by the C++ kernels: tokens grouped by expert, one packed product for each."""

from __future__ import annotations

import torch

from gllm.layers.ops.native_ops import NativeOps, PackedLinear
from gllm.layers.ops.torch_experts import TorchExperts


class PackedExperts:
    """One packed matrix per expert."""

    def __init__(self, count: int) -> None:
        self.matrices: list[PackedLinear | None] = [None] * count

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices if matrix is not None)

    def __getitem__(self, index: int) -> PackedLinear:
        matrix = self.matrices[index]
        assert matrix is not None, "every expert is set at load"
        return matrix


class NativeExperts(TorchExperts):
    """`ExpertOps` around the products of `NativeOps`, whose rows never depend on each other; routing is torch's."""

    def __init__(self, ops: NativeOps) -> None:
        self._ops = ops

    def new_experts(  # type: ignore[override]
        self, count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> PackedExperts:
        return PackedExperts(count)

    def set_expert(self, experts: PackedExperts, index: int, weight: torch.Tensor) -> None:  # type: ignore[override]
        experts.matrices[index] = self._ops.pack_linear(weight)

    def product(  # type: ignore[override]
        self,
        x: torch.Tensor,
        gate_up: PackedExperts,
        down: PackedExperts,
        chosen: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        n, k = chosen.shape
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        # counts[0] is the number of pairs without an expert, which come first.
        counts = torch.bincount(flat + 1, minlength=len(gate_up.matrices) + 1).tolist()
        rows = x[order // k]
        results = torch.empty_like(rows) if counts[0] == 0 else torch.zeros_like(rows)
        end = counts[0]
        for expert, count in enumerate(counts[1:]):
            if count:
                start, end = end, end + count
                hidden = self._ops.gated_linear(rows[start:end], gate_up[expert], None, "silu")
                results[start:end] = self._ops.linear(hidden, down[expert], None)
        by_token = torch.empty_like(results)
        by_token[order] = results
        by_token = by_token.view(n, k, -1)
        # Added one after the other: torch chooses the order of a sum over a dimension by the size of the batch.
        out = by_token[:, 0] * weights[:, :1]
        for nth in range(1, k):
            out.addcmul_(by_token[:, nth].float(), weights[:, nth : nth + 1])
        return out.to(x.dtype)
