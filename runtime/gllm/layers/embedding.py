"""Tokens to hidden states and back, the vocabulary divided between ranks where it can be."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gllm.layers.context import LayerContext
from gllm.layers.parameter import ALL, CheckpointSlice, Layer, Parameter
from gllm.parallel.layout import rank_slice


def vocabulary_rows(context: LayerContext, vocab_size: int) -> slice:
    """Return the tokens whose rows this rank holds: all of them if they cannot be divided evenly."""
    size = context.group.size
    return ALL if size == 1 or vocab_size % size else rank_slice(vocab_size, size, context.group.rank)


class Embedding(Layer):
    """token_ids [n] int64 -> [n, hidden]."""

    def __init__(self, context: LayerContext, prefix: str, vocab_size: int, hidden_size: int) -> None:
        self.group = context.group
        self.rows = vocabulary_rows(context, vocab_size)
        self.weight = Parameter(CheckpointSlice(f"{prefix}.weight", (vocab_size, hidden_size), self.rows))

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight.data
        if self.rows is ALL:
            return F.embedding(token_ids, weight)
        local = token_ids - self.rows.start
        elsewhere = (local < 0) | (local >= len(weight))
        found = F.embedding(local.masked_fill_(elsewhere, 0), weight).masked_fill_(elsewhere.unsqueeze(1), 0.0)
        return self.group.all_reduce(found)


class LMHead(Layer):
    """hidden [r, hidden] -> logits [r, vocab] float32, whole on every rank. `tied_to`: the embedding whose matrix it
    uses, if this rank has it."""

    def __init__(
        self,
        context: LayerContext,
        prefix: str,
        vocab_size: int,
        hidden_size: int,
        tied_to: Embedding | None = None,
    ) -> None:
        self.ops = context.ops
        self.group = context.group
        self.rows = vocabulary_rows(context, vocab_size)
        self.weight = Parameter(
            CheckpointSlice(f"{prefix}.weight", (vocab_size, hidden_size), self.rows),
            linear=True,
            tied_to=None if tied_to is None else tied_to.weight,
        )

    def __call__(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """out: [r or more, vocab] float32, memory for the result."""
        if self.rows is ALL:
            return self.ops.linear_f32(hidden, self.weight.data, out)
        shards = self.group.all_gather(self.ops.linear_f32(hidden, self.weight.data))
        return torch.cat(shards.unbind(0), dim=1)
