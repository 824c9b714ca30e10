"""Dense operations on CPU by the C++ kernels.

A call costs about two microseconds: all that a kernel must know about a weight is computed when the weight is packed,
and nothing is checked twice. A row's result never depends on the other rows of the batch nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gllm.layers.ops.protocols import Activation
from gllm_kernels import cpu
from gllm_kernels.cpu.memory import WeightArena

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def kernel_dtype(dtype: torch.dtype) -> int:
    """Return the kernels' number of a dtype. Raises ValueError if they do not support it."""
    if dtype not in _DTYPES:
        raise ValueError(
            f"dtype: the CPU kernels compute in float32 or bfloat16, not {str(dtype).removeprefix('torch.')}; "
            "use --dtype bfloat16 or --attention-backend reference"
        )
    return _DTYPES[dtype]


class PackedLinear:
    """A weight [out_features, in_features] in the kernels' layout."""

    __slots__ = ("data", "dtype", "in_features", "kernel_dtype", "nbytes", "out_features", "pointer")

    def __init__(self, weight: torch.Tensor, arena: WeightArena) -> None:
        assert cpu.native is not None
        assert weight.stride(1) == 1
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.kernel_dtype = kernel_dtype(weight.dtype)
        panel = cpu.native.panel_width()
        steps = self.in_features + (self.in_features % 2 if weight.dtype is torch.bfloat16 else 0)
        self.nbytes = -(-self.out_features // panel) * panel * steps * weight.itemsize
        self.data = arena.take(self.nbytes)
        self.pointer = self.data.data_ptr()
        cpu.native.pack(
            weight.data_ptr(), weight.stride(0), self.pointer, self.out_features, self.in_features, self.kernel_dtype
        )


class NativeOps:
    """`Ops` for float32 and bfloat16 tensors on the CPU."""

    def __init__(self) -> None:
        if cpu.native is None:
            raise ValueError(f"device cpu: {cpu.unavailable_reason()}, or use --attention-backend reference")
        self._native = cpu.native
        self._panel = cpu.native.panel_width()
        self._arena = WeightArena()
        self._gates: dict[Activation, Callable[..., None]] = {"silu": cpu.native.silu_and_mul}
        self._gated_linears: dict[Activation, Callable[..., None]] = {"silu": cpu.native.linear_gated}
        """Kernels that do product and gate in one."""

    def pack_linear(self, weight: torch.Tensor) -> PackedLinear:
        return PackedLinear(weight, self._arena)

    def linear(self, x: torch.Tensor, weight: PackedLinear, bias: torch.Tensor | None) -> torch.Tensor:
        return self._linear(x, weight, bias, weight.dtype)

    def linear_f32(self, x: torch.Tensor, weight: PackedLinear, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the float32 sums, not rounded; in the first rows of `out`, if given, which saves page faults."""
        return self._linear(x, weight, None, torch.float32, out)

    def _linear(
        self,
        x: torch.Tensor,
        weight: PackedLinear,
        bias: torch.Tensor | None,
        out_dtype: torch.dtype,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert x.dtype is weight.dtype
        n = x.shape[0]
        out = torch.empty((n, weight.out_features), dtype=out_dtype) if out is None else out[:n]
        self._native.linear(
            x.data_ptr(),
            x.stride(0),
            weight.pointer,
            0 if bias is None else bias.data_ptr(),
            out.data_ptr(),
            n,
            weight.in_features,
            weight.out_features,
            weight.kernel_dtype,
            out_dtype is torch.float32,
        )
        return out

    def gated_linear(
        self, x: torch.Tensor, weight: PackedLinear, bias: torch.Tensor | None, activation: Activation
    ) -> torch.Tensor:
        kernel = self._gated_linears.get(activation)
        if kernel is None or weight.out_features % (2 * self._panel) != 0:
            return self.gate(self.linear(x, weight, bias), activation)
        assert x.dtype is weight.dtype
        n = x.shape[0]
        out = torch.empty((n, weight.out_features // 2), dtype=x.dtype)
        kernel(
            x.data_ptr(),
            x.stride(0),
            weight.pointer,
            0 if bias is None else bias.data_ptr(),
            out.data_ptr(),
            n,
            weight.in_features,
            weight.out_features,
            weight.kernel_dtype,
        )
        return out

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = torch.empty(x.shape, dtype=x.dtype)
        heads, head_stride = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
        self._native.rms_norm(
            x.data_ptr(),
            x.stride(0),
            head_stride,
            0,
            0,
            weight.data_ptr(),
            out.data_ptr(),
            x.shape[0],
            heads,
            x.shape[-1],
            eps,
            _DTYPES[x.dtype],
        )
        return out

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        n, size = x.shape
        out = torch.empty((n, size), dtype=x.dtype)
        self._native.rms_norm(
            x.data_ptr(),
            x.stride(0),
            0,
            residual.data_ptr(),
            residual.stride(0),
            weight.data_ptr(),
            out.data_ptr(),
            n,
            1,
            size,
            eps,
            _DTYPES[x.dtype],
        )
        return out

    def rope(self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
        self._native.rope(
            q.data_ptr(),
            q.stride(0),
            q.stride(1),
            q.shape[1],
            k.data_ptr(),
            k.stride(0),
            k.stride(1),
            k.shape[1],
            positions.data_ptr(),
            cos_sin.data_ptr(),
            q.shape[0],
            cos_sin.shape[1],
            _DTYPES[q.dtype],
        )

    def gate(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        n, width = x.shape
        out = torch.empty((n, width // 2), dtype=x.dtype)
        self._gates[activation](x.data_ptr(), x.stride(0), out.data_ptr(), n, width // 2, _DTYPES[x.dtype])
        return out

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the first largest column of each row of float32 logits [n, size]: [n] int64."""
        assert logits.dtype is torch.float32
        n, size = logits.shape
        out = torch.empty(n, dtype=torch.int64)
        self._native.argmax(logits.data_ptr(), logits.stride(0), out.data_ptr(), n, size)
        return out

    def log_sum_exp(self, logits: torch.Tensor) -> torch.Tensor:
        """Return log(sum(exp(row))) of each row of float32 logits [n, size]: [n] float32."""
        assert logits.dtype is torch.float32
        n, size = logits.shape
        out = torch.empty(n, dtype=torch.float32)
        self._native.log_sum_exp(logits.data_ptr(), logits.stride(0), out.data_ptr(), n, size)
        return out
