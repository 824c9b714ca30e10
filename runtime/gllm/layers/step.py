"""The arguments of a forward pass besides its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gllm.layers.attention_backends.backend import AttentionMetadata


@dataclass(slots=True)
class Step:
    """One micro-batch as all layers see it. The runner makes one for each step."""

    positions: torch.Tensor
    """[n] int64 on the device: rows of the rope table."""
    attention: AttentionMetadata
    logits_indices: torch.Tensor | None = None
    """[r] int64 on the device: the tokens whose final states are needed (None: all). Set on the last stage only. The
    other tokens only leave their keys and values behind, so the last layer skips them after its attention."""
