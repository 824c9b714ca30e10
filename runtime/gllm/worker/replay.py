"""Passes that are recorded once and replayed: CUDA graphs of decode steps, and on the CPU a tape of kernel calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from gllm.layers.attention_backends.base import AttentionBatch


class StepReplay(ABC):
    """Forward passes that spare the host what an eager pass costs it."""

    @abstractmethod
    def fits(self, batch: AttentionBatch) -> bool:
        """Whether a step of this batch can be replayed."""

    @abstractmethod
    def plan(self, batch: AttentionBatch) -> Any:
        """Prepare a replay; returns what `replay` wants to know."""

    @abstractmethod
    def replay(
        self, plan: Any, inputs: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor | None
    ) -> torch.Tensor:
        """inputs, positions: of n tokens, as `CausalLM.forward` takes them, and `wanted` [w].

        Returns [n or more, hidden], or [w, hidden] if some are wanted; the next replay may overwrite it.
        """
