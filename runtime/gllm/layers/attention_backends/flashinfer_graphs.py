"""Decode metadata with fixed device addresses, one wrapper per batch size, for CUDA graphs."""

from __future__ import annotations

import flashinfer
import numpy as np
import torch

from gllm.layers.attention_backends.backend import AttentionBatch, KVShape
from gllm.layers.attention_backends.flashinfer_metadata import FlashInferMetadata, PageIndex, on_host

WORKSPACE_BYTES = 512 * 1024**2
"""Graph mode reserves split-KV partial results for the worst case of each size: 160 MiB at 512 rows of 32 heads."""


class GraphMetadata:
    """Static index buffers shared by all sizes: steps run one after the other on the stream."""

    def __init__(
        self,
        shape: KVShape,
        scale: float,
        caches: list[torch.Tensor],
        sizes: list[int],
        max_pages: int,
        *,
        padding_page: int,
        use_tensor_cores: bool,
    ) -> None:
        """scale: factor of the scores. caches: the pool of each layer. padding_page: the page that padding rows use."""
        self.shape = shape
        self._scale, self._caches = scale, caches
        self._padding_page = padding_page
        most, device = max(sizes), shape.device

        def buffer(size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        self._positions, self._indptr, self._last_page_len = buffer(most), buffer(most + 1), buffer(most)
        self._indices = buffer(most * max_pages)
        self._rows = torch.arange(most, dtype=torch.int32, device=device)
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._wrappers = {
            size: flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                workspace,
                "NHD",
                use_cuda_graph=True,
                use_tensor_cores=use_tensor_cores,
                paged_kv_indptr_buffer=self._indptr[: size + 1],
                paged_kv_indices_buffer=self._indices,
                paged_kv_last_page_len_buffer=self._last_page_len[:size],
            )
            for size in sizes
        }
        self._planned: dict[int, torch.cuda.Event] = {}

    def prepare(self, batch: AttentionBatch, size: int) -> FlashInferMetadata:
        """Prepare `batch` (decode rows only), padded to `size` rows. The addresses depend on `size` alone."""
        s = self.shape
        index = PageIndex.of(batch, s.page_size)
        padding = size - len(batch.kv_lens)
        indptr = np.concatenate([index.indptr, index.indptr[-1] + np.arange(1, padding + 1, dtype=np.int32)])
        indices = np.concatenate([index.indices, np.full(padding, self._padding_page, np.int32)])
        last_page_len = np.concatenate([index.last_page_len, np.ones(padding, np.int32)])
        positions = np.concatenate([batch.kv_lens - 1, np.zeros(padding, np.int32)])

        if (previous := self._planned.get(size)) is not None:
            # The copy of the last plan may still read the wrapper's pinned staging buffer.
            previous.synchronize()
        self._positions[:size].copy_(on_host(positions).pin_memory(), non_blocking=True)
        wrapper = self._wrappers[size]
        wrapper.plan(
            on_host(indptr),
            on_host(indices).pin_memory().to(s.device, non_blocking=True),
            on_host(last_page_len),
            s.num_heads,
            s.num_kv_heads,
            s.head_dim,
            s.page_size,
            q_data_type=s.dtype,
            kv_data_type=s.dtype,
            sm_scale=self._scale,
        )
        copied: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._planned[size] = copied
        return FlashInferMetadata(
            caches=self._caches,
            num_decode_rows=size,
            decode=wrapper,
            prefill=None,
            batch_indices=self._rows[:size],
            positions=self._positions[:size],
            indptr=self._indptr[: size + 1],
            indices=self._indices,
            last_page_len=self._last_page_len[:size],
        )
