"""Decode steps that are recorded once and replayed: CUDA graphs, and on the CPU a tape of kernel calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from gllm.attention.base import AttentionBatch


class DecodeReplay(ABC):
    """Forward passes of up to `max_rows` decode rows, which spare the host what an eager pass costs it."""

    max_rows: int

    def fits(self, batch: AttentionBatch) -> bool:
        """Whether the batch consists of decode rows only, and not of too many."""
        rows = len(batch.query_lens)
        return batch.num_decode_rows == rows and 0 < rows <= self.max_rows

    @abstractmethod
    def plan(self, batch: AttentionBatch) -> Any:
        """Prepare a replay; returns what `replay` wants to know."""

    @abstractmethod
    def replay(self, plan: Any, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """inputs, positions: of n tokens, as `CausalLM.forward` takes them.

        Returns [n or more, hidden], which the next replay may overwrite.
        """
