"""Paged attention on CUDA through FlashInfer's batch wrappers.

Decode rows and prefill rows of a mixed batch run in two kernels. Each micro-batch in flight has its own wrappers:
FlashInfer's `plan` fills a pinned staging buffer that the device reads later, so a wrapper must not be planned again
before that. The number of wrapper pairs grows to the largest number of micro-batches in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import flashinfer
import numpy as np
import torch

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape
from gllm.layers.attention_backends.flashinfer_graphs import GraphMetadata
from gllm.layers.attention_backends.flashinfer_metadata import FlashInferMetadata, PageIndex, on_host

WORKSPACE_BYTES = 128 * 1024**2
"""FlashInfer's recommendation for split-KV partial results."""
TENSOR_CORE_GROUP = 4
"""Query heads per KV head from which decode is faster through the tensor-core (prefill) kernel."""


class FlashInferAttention:
    """`AttentionBackend`. KV layout NHD: [num_pages, 2, page_size, kv_heads, head_dim] per layer."""

    name = "flashinfer"

    def __init__(self, shape: KVShape, layers: Sequence[AttentionSpec]) -> None:
        """Raises ValueError if layers differ in their attention: one plan per step serves all of them."""
        if len(set(layers)) != 1:
            raise ValueError("attention_backend flashinfer needs the same attention in every layer; use reference")
        self.shape = shape
        self._scale = layers[0].scale
        self._tensor_cores = shape.num_heads // shape.num_kv_heads >= TENSOR_CORE_GROUP
        # The workspaces may be shared: steps run one after the other on the stream.
        self._decode_workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=shape.device)
        self._prefill_workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=shape.device)
        self._wrappers: deque[tuple[torch.cuda.Event, Any, Any]] = deque()
        """(event after the copy of the last plan, decode wrapper, prefill wrapper), the least recently used first"""
        self._caches: list[torch.Tensor] = []
        self._padding_page = 0
        self._graphs: GraphMetadata | None = None

    def allocate(self, num_pages: int) -> None:
        """Allocate one more page than `num_pages`: the rows that pad a graph's batch write to it."""
        s = self.shape
        pool = (s.num_layers, num_pages + 1, 2, s.page_size, s.num_kv_heads, s.head_dim)
        self._caches = list(torch.zeros(pool, dtype=s.dtype, device=s.device).unbind(0))
        self._padding_page = num_pages

    def prepare_graphs(self, sizes: list[int], max_pages: int) -> None:
        self._graphs = GraphMetadata(
            self.shape,
            self._scale,
            self._caches,
            sizes,
            max_pages,
            padding_page=self._padding_page,
            use_tensor_cores=self._tensor_cores,
        )

    def prepare_graph(self, batch: AttentionBatch, size: int) -> FlashInferMetadata:
        assert self._graphs is not None, "prepare_graphs comes first"
        return self._graphs.prepare(batch, size)

    def prepare(self, batch: AttentionBatch) -> FlashInferMetadata:
        s = self.shape
        rows, decodes = len(batch.query_lens), batch.num_decode_rows
        index = PageIndex.of(batch, s.page_size)
        qo_indptr = np.zeros(rows + 1, np.int32)
        np.cumsum(batch.query_lens, out=qo_indptr[1:])
        batch_indices = np.repeat(np.arange(rows, dtype=np.int32), batch.query_lens)
        starts = batch.kv_lens - batch.query_lens - qo_indptr[:-1]
        positions = np.arange(qo_indptr[-1], dtype=np.int32) + np.repeat(starts, batch.query_lens)
        # One copy to the device for all index arrays.
        arrays = [batch_indices, positions, index.indptr, index.last_page_len, index.indices]
        packed = torch.from_numpy(np.concatenate(arrays, dtype=np.int32)).pin_memory()
        on_device = torch.split(packed.to(s.device, non_blocking=True), [len(array) for array in arrays])

        copied, decode_wrapper, prefill_wrapper = self._free_wrappers()
        split = index.indptr[decodes]
        if decodes:
            decode_wrapper.plan(
                on_host(index.indptr[: decodes + 1]),
                on_device[4][:split],
                on_host(index.last_page_len[:decodes]),
                s.num_heads,
                s.num_kv_heads,
                s.head_dim,
                s.page_size,
                q_data_type=s.dtype,
                kv_data_type=s.dtype,
                sm_scale=self._scale,
            )
        if decodes < rows:
            prefill_wrapper.plan(
                on_host(qo_indptr[decodes:] - decodes),
                on_host(index.indptr[decodes:] - split),
                on_device[4][split:],
                on_host(index.last_page_len[decodes:]),
                s.num_heads,
                s.num_kv_heads,
                s.head_dim,
                s.page_size,
                causal=True,
                q_data_type=s.dtype,
                kv_data_type=s.dtype,
                sm_scale=self._scale,
            )
        copied.record()
        self._wrappers.append((copied, decode_wrapper, prefill_wrapper))
        return FlashInferMetadata(
            caches=self._caches,
            num_decode_rows=decodes,
            decode=decode_wrapper if decodes else None,
            prefill=prefill_wrapper if decodes < rows else None,
            batch_indices=on_device[0],
            positions=on_device[1],
            indptr=on_device[2],
            last_page_len=on_device[3],
            indices=on_device[4],
        )

    def _free_wrappers(self) -> tuple[torch.cuda.Event, Any, Any]:
        """Return (event, decode wrapper, prefill wrapper): a set whose buffers the device has read, or a new one."""
        if self._wrappers and self._wrappers[0][0].query():  # type: ignore[no-untyped-call]
            return self._wrappers.popleft()
        decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._decode_workspace, "NHD", use_tensor_cores=self._tensor_cores
        )
        prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._prefill_workspace, "NHD", backend="auto")
        event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return event, decode, prefill
