"""CUDA graphs of decode steps: one for each batch size, launched instead of single kernels.

An eager decode step of a 36-layer model costs the host over 10 ms of launches, a graph under 1 ms
(docs/performance.md). The graph holds the layers; what differs from step to step (metadata, sampling) stays outside.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionMetadata, GraphAttention
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.worker.captured_graph import CapturedGraph


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Return the batch sizes to capture: dense where padding would cost most. Larger ones are piecewise graphs."""
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 32)]
    return [size for size in sizes if size < max_num_seqs] + ([max_num_seqs] if max_num_seqs <= 512 else [])


class CudaGraphs(CapturedGraph):
    """Captured forward passes; inputs and output live in static buffers that all sizes share."""

    def __init__(
        self, model: CausalLM, attention: GraphAttention, max_num_seqs: int, max_pages: int, dtype: torch.dtype
    ) -> None:
        self._model, self._attention = model, attention
        self.sizes = graph_sizes(max_num_seqs)
        self.max_rows = most = self.sizes[-1]
        device = torch.device("cuda", torch.cuda.current_device())
        self._positions = torch.zeros(most, dtype=torch.int64, device=device)
        self._hidden = torch.zeros(most, model.config.hidden_size, dtype=dtype, device=device)
        # The inputs are token ids on the first stage, hidden states on the others.
        self._inputs = torch.zeros_like(self._positions if model.embedding is not None else self._hidden)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        attention.prepare_graphs(self.sizes, max_pages)
        pool: Any = None
        for size in reversed(self.sizes):  # the largest first: smaller ones then fit into its memory pool
            graph = self._capture(size, pool)
            pool = graph.pool()
            self._graphs[size] = graph

    def _capture(self, size: int, pool: Any) -> torch.cuda.CUDAGraph:
        empty = np.zeros(0, np.int32)
        metadata = self._attention.prepare_graph(AttentionBatch(0, empty, empty, np.zeros((0, 1), np.int32)), size)
        step = Step(self._positions[:size], metadata)

        def forward() -> None:
            self._hidden[:size].copy_(self._model(self._inputs[:size], step))

        with side_stream():
            forward()  # lazily created state (cuBLAS workspaces, modules) must exist before a capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            forward()
        return graph

    def _padded(self, num_rows: int) -> int:
        """Return the smallest captured size that has room for `num_rows` rows."""
        return self.sizes[bisect.bisect_left(self.sizes, num_rows)]

    def fits(self, batch: AttentionBatch) -> bool:
        """Whether there are decode rows only, and not too many."""
        rows = len(batch.query_lens)
        return batch.num_decode_rows == rows and 0 < rows <= self.max_rows

    def prepare(self, batch: AttentionBatch) -> AttentionMetadata:
        return self._attention.prepare_graph(batch, self._padded(len(batch.query_lens)))

    def launch(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        """Copy the inputs and launch the graph. `step.attention` is in the static buffers that the graph reads."""
        n = len(step.positions)
        size = self._padded(n)
        self._inputs[:n] = inputs
        self._positions[:n] = step.positions
        self._graphs[size].replay()
        return self._hidden[:size] if step.logits_indices is None else self._hidden[step.logits_indices]


@contextmanager
def side_stream() -> Iterator[None]:
    """Run on another stream, ordered with the current one before and after (CUDA graphs' warm-up rule)."""
    current = torch.cuda.current_stream()
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)
