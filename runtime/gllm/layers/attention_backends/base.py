"""The one interface behind which paged attention is implemented.

A backend owns the KV pool and its layout. `plan` runs once a step on the CPU; `forward` runs once a
layer, writes the new keys and values to their pages and attends. Nothing in `forward` may depend on
the host: it must be capturable in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a KV pool is made of."""

    num_layers: int
    """Layers of this stage."""
    num_heads: int
    """Query heads of this rank."""
    num_kv_heads: int
    head_dim: int
    page_size: int
    """Tokens a page."""
    dtype: torch.dtype
    device: torch.device

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers, keys and values."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.page_size * self.dtype.itemsize


@dataclass(slots=True)
class AttentionBatch:
    """One micro-batch as the host knows it. Rows: decode rows (one token) first, then prefill chunks."""

    num_decode_rows: int
    query_lens: IntArray
    """[rows] new tokens."""
    kv_lens: IntArray
    """[rows] tokens in the cache after this step: earlier ones plus `query_lens`."""
    block_tables: IntArray
    """[rows, max pages] page ids; entries past the row's pages are meaningless."""

    @property
    def num_tokens(self) -> int:
        return int(self.query_lens.sum())


class AttentionBackend(Protocol):
    """Paged causal attention with grouped queries.

    `plan` returns an opaque object for `forward`. A backend must allow several plans to be alive at
    once (micro-batches in flight).
    """

    name: str

    def allocate(self, num_pages: int) -> None:
        """Allocate the KV pool."""

    def plan(self, batch: AttentionBatch) -> Any:
        """Prepare a step; may copy index arrays to the device without waiting for it."""

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Any) -> torch.Tensor:
        """Write k and v to the pages, attend with softmax scale head_dim ** -0.5.

        q: [num_tokens, num_heads, head_dim]; k, v: [num_tokens, num_kv_heads, head_dim]; all may be
        views whose token stride is larger than a row (slices of one fused qkv product).
        Returns [num_tokens, num_heads * head_dim], contiguous.
        """


class GraphAttention(AttentionBackend, Protocol):
    """A backend whose decode plans keep their device addresses, so that a captured graph can be replayed."""

    def prepare_graphs(self, sizes: list[int], max_pages: int) -> None:
        """Make static index buffers for decode batches of these sizes; `max_pages` a sequence at most."""

    def plan_graph(self, batch: AttentionBatch, size: int) -> Any:
        """Plan a batch of decode rows only, padded to `size` rows; every plan of a size has the same addresses."""
