"""Steps on the CPU as a tape: the kernel calls of the layers, recorded once, replayed by one call into C++.

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

from gllm.layers.attention_backends.base import AttentionBackend, AttentionBatch
from gllm.models.base import CausalLM
from gllm.worker.replay import StepReplay
from gllm_kernels.cpu import native

logger = logging.getLogger("gllm.worker")


class StepTape(StepReplay):
    """The layers of a stage over static buffers; recorded for `max_tokens`, it serves any smaller number.

    The last layer has a tape of its own: with `wanted` it runs eagerly, since only a part of it has all tokens.
    """

    def __init__(self, model: CausalLM, attention: AttentionBackend, max_tokens: int, dtype: torch.dtype) -> None:
        """Raises RuntimeError if the layers do anything but call kernels."""
        self._model, self._attention, self.max_tokens = model, attention, max_tokens
        assert native is not None
        self._native = native
        self._positions = torch.zeros(max_tokens, dtype=torch.int64)
        self._hidden = torch.zeros(max_tokens, model.config.hidden_size, dtype=dtype)
        self._between: tuple[torch.Tensor, torch.Tensor | None] = (self._hidden, None)
        self._results = (self._hidden, self._hidden)

        def layers_but_last() -> None:
            self._between = model.layers_but_last(self._hidden, self._positions, attention, None)

        def last_layer() -> None:
            self._results = model.layers[-1](*self._between, self._positions, attention, None)

        self._recording = _Recording()
        with torch.inference_mode(), self._recording:
            self._tapes = [self._native.record(part, max_tokens) for part in (layers_but_last, last_layer)]

    def fits(self, batch: AttentionBatch) -> bool:
        return 0 < int(batch.query_lens.sum()) <= self.max_tokens

    def plan(self, batch: AttentionBatch) -> Any:
        return self._attention.plan(batch)

    def replay(
        self, plan: Any, inputs: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor | None
    ) -> torch.Tensor:
        n = len(positions)
        self._hidden[:n] = self._model.embed(inputs)
        self._positions[:n] = positions
        self._native.replay(self._tapes[0], n, plan)
        if wanted is None:
            self._native.replay(self._tapes[1], n, plan)
            x, residual = self._results
            return self._model.finish(x[:n], residual[:n])
        between, stream = self._between
        x, residual = self._model.layers[-1](
            between[:n], None if stream is None else stream[:n], positions, self._attention, plan, wanted
        )
        return self._model.finish(x, residual)


def record_steps(model: CausalLM, attention: AttentionBackend, max_tokens: int, dtype: torch.dtype) -> StepTape | None:
    """None for a model whose layers compute with torch too (experts, sums over ranks): its steps run eagerly."""
    try:
        return StepTape(model, attention, max_tokens, dtype)
    except RuntimeError as error:
        logger.debug("steps run eagerly: %s", error)
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
