"""Decode steps on the CPU as a tape: the kernel calls of the layers, recorded once, replayed by one call into C++.

A step of a small model is hundreds of kernel calls of some microseconds each, and as long as that stands in Python
between them (docs/performance.md).
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gllm.attention.base import AttentionBackend, AttentionBatch
from gllm.models.base import CausalLM
from gllm.worker.replay import DecodeReplay
from gllm_kernels.cpu import native

logger = logging.getLogger("gllm.worker")


class DecodeTape(DecodeReplay):
    """The layers of a stage over static buffers; recorded for `max_rows` rows, it serves any smaller number."""

    def __init__(self, model: CausalLM, attention: AttentionBackend, max_rows: int, dtype: torch.dtype) -> None:
        """Raises RuntimeError if the layers do anything but call kernels."""
        self._model, self._attention, self.max_rows = model, attention, max_rows
        assert native is not None
        self._native = native
        self._positions = torch.zeros(max_rows, dtype=torch.int64)
        self._hidden = torch.zeros(max_rows, model.config.hidden_size, dtype=dtype)
        self._recording = _Recording()
        self._results = (self._hidden, self._hidden)

        def forward() -> None:
            self._results = model.run_layers(self._hidden, self._positions, attention, None)

        with torch.inference_mode(), self._recording:
            self._tape = native.record(forward, max_rows)

    def plan(self, batch: AttentionBatch) -> Any:
        return self._attention.plan(batch)

    def replay(self, plan: Any, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        n = len(positions)
        self._hidden[:n] = self._model.embed(inputs)
        self._positions[:n] = positions
        self._native.replay(self._tape, n, plan)
        x, residual = self._results
        return self._model.finish(x[:n], residual[:n])


def record_decodes(
    model: CausalLM, attention: AttentionBackend, max_rows: int, dtype: torch.dtype
) -> DecodeTape | None:
    """None for a model whose layers compute with torch too (experts, sums over ranks): its steps run eagerly."""
    try:
        return DecodeTape(model, attention, max_rows, dtype)
    except RuntimeError as error:
        logger.debug("decode steps run eagerly: %s", error)
        return None


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered torch may make views and empty tensors only: what it computed would not be on the tape.

    The tensors' memory is kept for replays. That of one which is gone serves the next of its size, as it would when
    run: a step then works in the cache, in a few buffers that all layers share.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._blocks: list[torch.Tensor] = []
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and to keep torch's compiler out it would be imported: 100 MB, a second."""
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
        raise RuntimeError(f"{func} is no kernel that a tape can hold")

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
