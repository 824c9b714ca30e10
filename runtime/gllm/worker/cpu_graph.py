"""CPU graphs: the kernel calls of the layers, captured once and launched by one call into C++.

A step of a small model is hundreds of kernel calls of a few microseconds each. In an eager pass the Python between them
takes as long as the kernels (docs/performance.md).
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gllm.layers.attention_backends.backend import AttentionBatch
from gllm.layers.attention_backends.native import NativeAttention, NativeMetadata
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.worker.captured_graph import CapturedGraph
from gllm_kernels.cpu import native

logger = logging.getLogger("gllm.worker")


class CpuGraph(CapturedGraph):
    """The layers of a stage over static buffers. Captured for `max_tokens`, it serves any smaller number.

    The last layer is a separate graph. With `Step.logits_indices` it runs eagerly, since only a part of it has all
    tokens.
    """

    def __init__(self, model: CausalLM, attention: NativeAttention, max_tokens: int, dtype: torch.dtype) -> None:
        """Raises RuntimeError if the layers do anything but call kernels."""
        self._model, self._attention, self.max_tokens = model, attention, max_tokens
        assert native is not None
        self._native = native
        self._positions = torch.zeros(max_tokens, dtype=torch.int64)
        self._hidden = torch.zeros(max_tokens, model.config.hidden_size, dtype=dtype)
        self._between: tuple[torch.Tensor, torch.Tensor | None] = (self._hidden, None)
        self._results = (self._hidden, self._hidden)
        step = Step(self._positions, attention.capturing())

        def layers_but_last() -> None:
            self._between = model.layers_but_last(self._hidden, step)

        def last_layer() -> None:
            self._results = model.layers[-1](*self._between, step)

        self._buffers = Capturing()
        with torch.inference_mode(), self._buffers:
            self._graphs = [self._native.capture(part, max_tokens) for part in (layers_but_last, last_layer)]

    def fits(self, batch: AttentionBatch) -> bool:
        return 0 < int(batch.query_lens.sum()) <= self.max_tokens

    def prepare(self, batch: AttentionBatch) -> NativeMetadata:
        return self._attention.prepare(batch)

    def launch(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        assert isinstance(step.attention, NativeMetadata)
        work_list, n = step.attention.work_list, len(step.positions)
        self._hidden[:n] = self._model.embed(inputs)
        self._positions[:n] = step.positions
        self._native.launch(self._graphs[0], n, work_list)
        if step.logits_indices is None:
            self._native.launch(self._graphs[1], n, work_list)
            x, residual = self._results
            return self._model.finish(x[:n], residual[:n])
        x, stream = self._between
        return self._model.finish(*self._model.layers[-1](x[:n], None if stream is None else stream[:n], step))


def capture_steps(model: CausalLM, attention: NativeAttention, max_tokens: int, dtype: torch.dtype) -> CpuGraph | None:
    """Capture the steps; None for a model whose layers also compute with torch: its steps run eagerly.

    Such layers have experts, or all-reduces.
    """
    try:
        return CpuGraph(model, attention, max_tokens, dtype)
    except RuntimeError as error:
        logger.debug("steps run eagerly: %s", error)
        return None


class Capturing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, torch may make views and empty tensors only: a graph does not hold what torch computes.

    The memory of the tensors is kept for launches. When a tensor is gone, the next one of its size gets its memory, as
    in an eager pass: so all layers share a few buffers, which stay in the cache.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._blocks: list[torch.Tensor] = []
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: to skip torch's compiler it would first be imported, which takes 100 MB and a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.empty.memory_format:
            return self._empty(args[0], kwargs["dtype"])
        if func.is_view:  # or a copy where no view is possible: reshape, contiguous
            result = func(*args, **kwargs)
            first = result[0] if isinstance(result, list | tuple) else result
            if first.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr():
                return result
        raise RuntimeError(f"{func} is no kernel that a CPU graph can hold")

    def _empty(self, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        free = self._free.setdefault(size, [])
        if not free:
            self._blocks.append(torch.empty(size, dtype=torch.uint8))
            free.append(self._blocks[-1].numpy())
        block = free.pop()
        lease = block.view()  # lives as long as a tensor over its memory
        weakref.finalize(lease, free.append, block)
        return torch.frombuffer(lease, dtype=dtype).view(shape)
