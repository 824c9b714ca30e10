"""The index arrays that FlashInfer reads in a step: flat page lists with offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flashinfer
import numpy as np
import torch

from gllm.layers.attention_backends.backend import AttentionBatch, IntArray


@dataclass(slots=True)
class FlashInferMetadata:
    """Device index arrays of one micro-batch, and the wrappers planned for it."""

    caches: list[torch.Tensor]
    """[layers] the pool of each layer, see `FlashInferAttention`."""
    num_decode_rows: int
    decode: Any
    """FlashInfer's wrapper; None without decode rows."""
    prefill: Any
    """FlashInfer's wrapper; None without prefill rows."""
    batch_indices: torch.Tensor
    """[n] int32 row of each token."""
    positions: torch.Tensor
    """[n] int32"""
    indptr: torch.Tensor
    """[rows + 1] int32 into `indices`."""
    indices: torch.Tensor
    """int32 page ids of all rows, one after the other."""
    last_page_len: torch.Tensor
    """[rows] int32"""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self.attend_into(layer, q, k, v, out)
        return out.view(len(out), -1)

    def attend_into(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
        cache = self.caches[layer]
        n, decodes = len(self.batch_indices), self.num_decode_rows
        flashinfer.append_paged_kv_cache(
            k[:n], v[:n], self.batch_indices, self.positions, cache, self.indices, self.indptr, self.last_page_len
        )
        if self.decode is not None:
            self.decode.run(q[:decodes], cache, out=out[:decodes])
        if self.prefill is not None:
            self.prefill.run(q[decodes:n], cache, out=out[decodes:n])


@dataclass(slots=True)
class PageIndex:
    """A batch's pages on the host."""

    indptr: IntArray
    """[rows + 1]"""
    indices: IntArray
    last_page_len: IntArray
    """[rows] tokens in each row's last page, 1 to page_size."""

    @classmethod
    def of(cls, batch: AttentionBatch, page_size: int) -> PageIndex:
        num_pages = -(-batch.kv_lens // page_size)
        indptr = np.zeros(len(num_pages) + 1, np.int32)
        np.cumsum(num_pages, out=indptr[1:])
        in_use = np.arange(batch.block_tables.shape[1]) < num_pages[:, None]
        return cls(indptr, batch.block_tables[in_use], batch.kv_lens - (num_pages - 1) * page_size)


def on_host(array: IntArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
