"""Tokens to hidden states and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gllm.layers.ops import Ops
from gllm.layers.parameter import Layer, Parameter


class Embedding(Layer):
    """token_ids [n] int64 -> [n, hidden]."""

    def __init__(self, prefix: str, vocab_size: int, hidden_size: int) -> None:
        self.weight = Parameter((f"{prefix}.weight", vocab_size), columns=hidden_size, shard_dim=0)

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight.data
        return F.embedding(token_ids, weight)


class LMHead(Layer):
    """hidden [r, hidden] -> logits [r, vocab] float32. With `tied_to` it uses the embedding's matrix."""

    def __init__(
        self, ops: Ops, prefix: str, vocab_size: int, hidden_size: int, tied_to: Embedding | None = None
    ) -> None:
        self.ops = ops
        self.weight = Parameter(
            (f"{prefix}.weight", vocab_size),
            columns=hidden_size,
            shard_dim=0,
            linear=True,
            tied_to=None if tied_to is None else tied_to.weight,
        )

    def __call__(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.ops.linear_f32(hidden, self.weight.data, out)
