"""Forward passes captured once and launched as a whole: CUDA graphs of decode steps, CPU graphs of all steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionMetadata
from gllm.layers.step import Step


class CapturedGraph(ABC):
    """Forward passes that cost the host less than an eager pass."""

    sizes: Sequence[int] = ()
    """Numbers of tokens, ascending, to which steps are padded; empty: they are not padded."""
    efficient_sizes: Sequence[int] = ()
    """Those of `sizes` that compute the most tokens per second."""

    @abstractmethod
    def fits(self, batch: AttentionBatch) -> bool:
        """Whether a step of this batch can be launched as a graph."""

    @abstractmethod
    def prepare(self, batch: AttentionBatch) -> AttentionMetadata:
        """Return the metadata, as `AttentionBackend.prepare` does, for the step that `launch` gets next."""

    @abstractmethod
    def launch(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        """Launch the forward pass. inputs: n tokens, as in `CausalLM.forward`.

        Returns [n or more, hidden], or [r, hidden] with `step.logits_indices` [r]. The next launch may overwrite it.
        """
