"""Paged attention on CPU by the C++ kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape
from gllm.layers.ops.native_ops import kernel_dtype
from gllm_kernels import cpu
from gllm_kernels.cpu.memory import huge_block

if TYPE_CHECKING:
    from gllm_kernels.cpu._native import WorkList

MAX_HEAD_DIM = 256
MAX_GROUP = 128


class NativeAttention:
    """`AttentionBackend` for float32 and bfloat16 on the CPU.

    The result for a token depends only on its own sequence: not on the batch, on how the prompt was cut into chunks,
    on the page size, on which pages it has or on the number of threads.
    """

    name = "native"

    def __init__(self, shape: KVShape, layers: Sequence[AttentionSpec]) -> None:
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
        self.native = cpu.native
        self.pool = torch.empty(0, dtype=torch.uint8)
        self.pools: list[tuple[int, float]] = []
        """[layers] address of the layer's pages, 1 / scale"""
        self._score_divisors = [1.0 / layer.scale for layer in layers]
        self.sizes = (shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.page_size, kernel_dtype(shape.dtype))
        self.width = shape.num_heads * shape.head_dim

    def allocate(self, num_pages: int) -> None:
        # Pages are scattered over the pool: without huge pages each of them costs a miss in address translation. All
        # memory is taken now, so that a lack of it shows at the start, and the first steps are as fast as later ones.
        layer_bytes = num_pages * self.shape.page_bytes // self.shape.num_layers
        self.pool = huge_block(layer_bytes * self.shape.num_layers, present=True)
        base = self.pool.data_ptr()
        self.pools = [(base + i * layer_bytes, divisor) for i, divisor in enumerate(self._score_divisors)]

    def prepare(self, batch: AttentionBatch) -> NativeMetadata:
        query_lens = np.ascontiguousarray(batch.query_lens, dtype=np.int32)
        kv_lens = np.ascontiguousarray(batch.kv_lens, dtype=np.int32)
        tables = np.ascontiguousarray(batch.block_tables, dtype=np.int32)
        work_list = self.native.attention_work_list(
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
        return NativeMetadata(self, work_list)

    def capturing(self) -> NativeMetadata:
        """Return metadata for a capture; the CPU graph gets a work list when it is launched."""
        return NativeMetadata(self, None)


@dataclass(slots=True)
class NativeMetadata:
    """The work list of one step."""

    backend: NativeAttention
    work_list: WorkList | None

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        backend = self.backend
        pool, score_divisor = backend.pools[layer]
        out = torch.empty((q.shape[0], backend.width), dtype=q.dtype)
        backend.native.attention(
            self.work_list,
            pool,
            q.data_ptr(),
            q.stride(0),
            k.data_ptr(),
            k.stride(0),
            v.data_ptr(),
            v.stride(0),
            out.data_ptr(),
            score_divisor,
            *backend.sizes,
        )
        return out
