"""Log-probabilities of chosen tokens and of the most likely ones, from unmodified logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gllm.wire.messages import TokenLogprob


def token_logprobs(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    num_top: list[int],
    *,
    asked: Mapping[int, Sequence[int]] | None = None,
) -> list[TokenLogprob]:
    """logits: [rows, vocab] float32; tokens: [rows] int64; num_top: alternatives wanted for each row.

    asked: row -> the tokens wanted as its alternatives, with the chosen one, instead of the most likely ones.
    """
    if not num_top:
        return []
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(1, tokens[:, None])
    ranks = (logprobs > chosen).sum(-1) + 1
    values, indices = logprobs.topk(max(1, max(num_top)), dim=-1)
    entries = [
        TokenLogprob(
            token_id=token, logprob=logprob, rank=rank, top=list(zip(top_tokens[:n], top_values[:n], strict=True))
        )
        for token, logprob, rank, top_tokens, top_values, n in zip(
            tokens.tolist(),
            chosen[:, 0].tolist(),
            ranks.tolist(),
            indices.tolist(),
            values.tolist(),
            num_top,
            strict=True,
        )
    ]
    for row, alternatives in (asked or {}).items():
        wanted = list(dict.fromkeys([*alternatives, entries[row].token_id]))
        found = logprobs[row, torch.tensor(wanted, device=logprobs.device)].tolist()
        entries[row].top = list(zip(wanted, found, strict=True))
    return entries
