"""Paged attention in plain torch, the reference for the fast backends; any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape


@dataclass(slots=True)
class _Row:
    """One sequence of a micro-batch."""

    start: int
    end: int
    """Its tokens in the batch: [start, end)."""
    slots: torch.Tensor
    """[kv_len] index in the pool of each token of its context: page * page_size + offset."""
    mask: torch.Tensor
    """[end - start, kv_len] bool: query i sees the keys up to its own position."""


class ReferenceAttention:
    """`AttentionBackend` that works row by row: a row's result depends on its own tokens alone, bit for bit.

    Softmax and products run in float32 whatever the KV dtype.
    """

    name = "reference"

    def __init__(self, shape: KVShape, layers: Sequence[AttentionSpec]) -> None:
        self.shape = shape
        self.layers = layers
        self.keys = self.values = torch.empty(0)
        """[num_layers, num_pages * page_size, num_kv_heads, head_dim] each"""

    def allocate(self, num_pages: int) -> None:
        s = self.shape
        size = (s.num_layers, num_pages * s.page_size, s.num_kv_heads, s.head_dim)
        self.keys = torch.zeros(size, dtype=s.dtype, device=s.device)
        self.values = torch.zeros(size, dtype=s.dtype, device=s.device)

    def prepare(self, batch: AttentionBatch) -> ReferenceMetadata:
        page_size, device = self.shape.page_size, self.shape.device
        tables = torch.from_numpy(batch.block_tables).to(device=device, dtype=torch.int64)
        rows: list[_Row] = []
        start = 0
        for index, (query_len, kv_len) in enumerate(
            zip(batch.query_lens.tolist(), batch.kv_lens.tolist(), strict=True)
        ):
            at = torch.arange(kv_len, device=device)
            slots = tables[index, at // page_size] * page_size + at % page_size
            mask = at <= at[kv_len - query_len :, None]
            rows.append(_Row(start, start + query_len, slots, mask))
            start += query_len
        return ReferenceMetadata(self, rows)


@dataclass(slots=True)
class ReferenceMetadata:
    """The rows of one step."""

    backend: ReferenceAttention
    rows: list[_Row]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        spec, keys, values = self.backend.layers[layer], self.backend.keys[layer], self.backend.values[layer]
        for row in self.rows:
            new = row.slots[len(row.slots) - (row.end - row.start) :]
            keys[new] = k[row.start : row.end]
            values[new] = v[row.start : row.end]
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for row in self.rows:
            # scaled_dot_product_attention wants [heads, tokens, head_dim].
            attended = F.scaled_dot_product_attention(
                q[row.start : row.end].transpose(0, 1).float().unsqueeze(0),
                keys[row.slots].transpose(0, 1).float().unsqueeze(0),
                values[row.slots].transpose(0, 1).float().unsqueeze(0),
                attn_mask=row.mask,
                scale=spec.scale,
                enable_gqa=True,
            )
            out[row.start : row.end] = attended[0].transpose(0, 1)
        return out.view(q.shape[0], -1)
