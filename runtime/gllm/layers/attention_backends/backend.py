"""The interface behind which paged attention is implemented.

A backend owns the KV pool and its layout. `prepare` runs once per step on the CPU. `AttentionMetadata.attend` runs once
per layer; it writes the new keys and values to their pages and attends. It must not depend on the host, so that a CUDA
graph can capture it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """The attention of one layer. A backend gets the specs of all its layers when it is made."""

    scale: float
    """Factor of the scores before the softmax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """Sizes of a rank's KV pool and of the queries that read it."""

    num_layers: int
    """Layers of this stage."""
    num_heads: int
    """Query heads of this rank."""
    num_kv_heads: int
    head_dim: int
    page_size: int
    """Tokens per page."""
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


class AttentionMetadata(Protocol):
    """The data that a backend prepared for one step, bound to that backend."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Write k and v to the pages of a layer of the pool, then attend as the layer's `AttentionSpec` says.

        q: [n, num_heads, head_dim]; k, v: [n, num_kv_heads, head_dim]. The token stride of each may be larger than a
        row (slices of one fused qkv product). Returns [n, num_heads * head_dim], contiguous.
        """


class AttentionBackend(Protocol):
    """Paged causal attention with grouped queries."""

    name: str

    def allocate(self, num_pages: int) -> None:
        """Allocate the KV pool."""

    def prepare(self, batch: AttentionBatch) -> AttentionMetadata:
        """Prepare a step. May copy index arrays to the device without waiting for it.

        The metadata of several steps may be alive at once (micro-batches in flight).
        """


class MetadataInto(AttentionMetadata, Protocol):
    """Metadata whose result can have a fixed address, and whose inputs may be padded."""

    def attend_into(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
        """Do as `attend`, into the first n rows of `out` [n or more, num_heads, head_dim]; q, k, v: likewise."""


class GraphAttention(AttentionBackend, Protocol):
    """A backend that can be captured in CUDA graphs: its decode metadata keeps fixed device addresses."""

    def prepare(self, batch: AttentionBatch) -> MetadataInto: ...

    def prepare_graphs(self, sizes: list[int], max_pages: int) -> None:
        """Make static index buffers for decode batches of these sizes, with at most `max_pages` pages per sequence."""

    def prepare_graph(self, batch: AttentionBatch, size: int) -> AttentionMetadata:
        """Prepare decode rows, padded to `size` rows. All metadata of one size has the same addresses."""
