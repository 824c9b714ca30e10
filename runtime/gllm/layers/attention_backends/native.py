"""Paged attention on CPU by the C++ kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gllm.layers.attention_backends.base import AttentionBatch, KVShape
from gllm.layers.ops.native_ops import kernel_dtype
from gllm_kernels import cpu
from gllm_kernels.cpu.memory import huge_block

MAX_HEAD_DIM = 256
MAX_GROUP = 128


class NativeAttention:
    """`AttentionBackend` for float32 and bfloat16 on the CPU.

    The result for a token depends only on its own sequence: not on the batch, on how the prompt was cut into chunks,
    on the page size, on which pages it has or on the number of threads.
    """

    name = "native"

    def __init__(self, shape: KVShape) -> None:
        if cpu.native is None:
            raise ValueError(f"attention_backend native: {cpu.unavailable_reason()}, or use reference")
        if shape.device.type != "cpu":
            raise ValueError(f"attention_backend native works on the CPU, not on {shape.device.type}; use flashinfer")
        if shape.head_dim % 16 != 0 or not 0 < shape.head_dim <= MAX_HEAD_DIM:
            raise ValueError(
                f"head_dim {shape.head_dim}: attention_backend native needs a multiple of 16 up to {MAX_HEAD_DIM}; "
                "use reference"
            )
        if shape.num_heads % shape.num_kv_heads != 0 or shape.num_heads // shape.num_kv_heads > MAX_GROUP:
            raise ValueError(
                f"num_heads {shape.num_heads} must be num_kv_heads {shape.num_kv_heads} times 1 to {MAX_GROUP}"
            )
        if shape.page_size < 1 or shape.page_size & (shape.page_size - 1) != 0:
            raise ValueError(f"page_size {shape.page_size}: attention_backend native needs a power of two; use 16")
        self.shape = shape
        self._native = cpu.native
        self._dtype = kernel_dtype(shape.dtype)
        self._pool = torch.empty(0, dtype=torch.uint8)
        self._layers: list[int] = []
        self._sizes = (shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.page_size, self._dtype)
        self._width = shape.num_heads * shape.head_dim

    def allocate(self, num_pages: int) -> None:
        # Pages are scattered over the pool: without huge pages every one costs a miss in address translation. They are
        # taken now: memory that is not there shows at the start and not under load, whose first steps are not slower.
        layer_bytes = num_pages * self.shape.page_bytes // self.shape.num_layers
        self._pool = huge_block(layer_bytes * self.shape.num_layers, present=True)
        base = self._pool.data_ptr()
        self._layers = [base + layer * layer_bytes for layer in range(self.shape.num_layers)]

    def poison(self, value: float) -> None:
        """Fill the pool with a value that no result may show; for tests."""
        self._pool.view(self.shape.dtype).fill_(value)

    def plan(self, batch: AttentionBatch) -> Any:
        query_lens = np.ascontiguousarray(batch.query_lens, dtype=np.int32)
        kv_lens = np.ascontiguousarray(batch.kv_lens, dtype=np.int32)
        tables = np.ascontiguousarray(batch.block_tables, dtype=np.int32)
        return self._native.attention_plan(
            query_lens.ctypes.data,
            kv_lens.ctypes.data,
            tables.ctypes.data,
            len(query_lens),
            batch.num_decode_rows,
            tables.shape[1],
            self.shape.num_heads,
            self.shape.num_kv_heads,
            self.shape.page_size,
        )

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Any) -> torch.Tensor:
        out = torch.empty((q.shape[0], self._width), dtype=q.dtype)
        self._native.attention(
            plan,
            self._layers[layer],
            q.data_ptr(),
            q.stride(0),
            k.data_ptr(),
            k.stride(0),
            v.data_ptr(),
            v.stride(0),
            out.data_ptr(),
            *self._sizes,
        )
        return out
