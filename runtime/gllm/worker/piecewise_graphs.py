"""CUDA graphs of steps with prompts: the layers are captured in pieces, between which attention is launched as it is.

The kernels and grids of attention depend on the lengths of the rows, those of everything else on the number of tokens
alone. So one set of graphs per number of tokens serves every mix of decodes and prompts, and the host launches a graph
and two or three kernels per layer instead of a dozen.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, cast

import torch

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionMetadata, GraphAttention, MetadataInto
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.worker.captured_graph import CapturedGraph
from gllm.worker.cuda_graphs import side_stream
from gllm.worker.piece_sizes import efficient_sizes, piece_sizes

_WARM_UP, _REPEATS = 20, 4
"""How often a piece is launched before and while its time is measured: about half a second for all sizes."""


@dataclass(slots=True)
class _Attention:
    """The queries, keys and values that a piece leaves for the attention of a layer: [size, heads, head_dim]."""

    layer: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


class PiecewiseGraphs(CapturedGraph):
    """The pieces of all sizes; they share one memory pool and the static buffers of inputs and outputs."""

    def __init__(self, model: CausalLM, attention: GraphAttention, max_tokens: int, dtype: torch.dtype) -> None:
        """attention: its pool is allocated. max_tokens: of a step."""
        self._attention = attention
        self.sizes = piece_sizes(max_tokens)
        self.max_tokens = most = self.sizes[-1]
        device = torch.device("cuda", torch.cuda.current_device())
        self._positions = torch.zeros(most, dtype=torch.int64, device=device)
        self._hidden = torch.zeros(most, model.config.hidden_size, dtype=dtype, device=device)
        # The inputs are token ids on the first stage, hidden states on the others.
        self._inputs = torch.zeros_like(self._positions if model.embedding is not None else self._hidden)
        layer = model.layers[0].attention
        self._attended = torch.zeros(most, layer.num_heads, layer.head_dim, dtype=dtype, device=device)
        self._pieces: dict[int, _Pieces] = {}
        pool = torch.cuda.graph_pool_handle()
        with side_stream():
            for size in reversed(self.sizes):  # the largest first: smaller ones then fit into its memory pool
                self._pieces[size] = self._capture(model, size, pool)
            self.efficient_sizes = self._measure()

    def _capture(self, model: CausalLM, size: int, pool: Any) -> _Pieces:
        attended = self._attended[:size]

        def forward(attention: AttentionMetadata) -> None:
            states = model(self._inputs[:size], Step(self._positions[:size], attention))
            self._hidden[:size].copy_(states)

        forward(_NoAttention(attended))  # lazily created state (cuBLAS workspaces, modules) must exist before a capture
        torch.cuda.current_stream().synchronize()
        pieces = _Pieces(attended, pool)
        pieces.begin()
        forward(pieces)
        pieces.end()
        return pieces

    def _measure(self) -> list[int]:
        """Return the efficient sizes, by the time of one layer's piece."""
        self._pieces[self.max_tokens].seconds(_WARM_UP)  # a resting device has another clock
        seconds = {size: self._pieces[size].seconds(_REPEATS) for size in reversed(self.sizes)}
        return efficient_sizes(self.sizes, [seconds[size] for size in self.sizes])

    def fits(self, batch: AttentionBatch) -> bool:
        return 0 < batch.num_tokens <= self.max_tokens

    def prepare(self, batch: AttentionBatch) -> AttentionMetadata:
        return self._attention.prepare(batch)

    def launch(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        """Copy the inputs, then launch pieces and attention in turn."""
        n = len(step.positions)
        size = self.sizes[bisect.bisect_left(self.sizes, n)]
        self._inputs[:n] = inputs
        self._positions[:n] = step.positions
        self._pieces[size].launch(cast(MetadataInto, step.attention))
        return self._hidden[:size] if step.logits_indices is None else self._hidden[step.logits_indices]


class _Pieces:
    """The graphs of one number of tokens. While they are captured, it is the metadata that the layers see: each call
    of `attend` ends one piece and begins the next."""

    def __init__(self, attended: torch.Tensor, pool: Any) -> None:
        """attended: [size, heads, head_dim], the buffer in which attention leaves its result."""
        self._attended = attended
        self._pool = pool
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._between: list[_Attention] = []

    def begin(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool)
        self._graphs.append(graph)

    def end(self) -> None:
        self._graphs[-1].capture_end()

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """End a piece and begin the next. Returns the buffer of the result, [size, heads * head_dim]."""
        self.end()
        # Later pieces may use the memory again: they run after the attention that reads it.
        self._between.append(_Attention(layer, _borrowed(q), _borrowed(k), _borrowed(v)))
        self.begin()
        return self._attended.flatten(1)

    def launch(self, metadata: MetadataInto) -> None:
        *firsts, last = self._graphs
        for graph, between in zip(firsts, self._between, strict=True):
            graph.replay()
            metadata.attend_into(between.layer, between.q, between.k, between.v, self._attended)
        last.replay()

    def seconds(self, repeats: int) -> float:
        """Return the time of one layer's piece."""
        graph = self._graphs[len(self._graphs) // 2]
        begun: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        done: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        graph.replay()
        begun.record()
        for _ in range(repeats):
            graph.replay()
        done.record()
        done.synchronize()
        milliseconds: float = begun.elapsed_time(done)
        return milliseconds / repeats / 1000


class _NoAttention:
    """Metadata with which the layers run without attention."""

    def __init__(self, attended: torch.Tensor) -> None:
        self._attended = attended

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self._attended.flatten(1)


class _Memory:
    """Device memory as `torch.as_tensor` reads it: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


def _borrowed(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor over the memory of x that does not keep it allocated."""
    storage = x.untyped_storage()
    whole = torch.as_tensor(_Memory(storage.data_ptr(), storage.nbytes()), device=x.device)
    return whole.view(x.dtype).as_strided(x.size(), x.stride(), x.storage_offset())
