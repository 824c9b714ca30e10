"""Edits of the logits of rows that ask for them: bias, min_tokens, allowed tokens, bad words, grammar, penalties.

Only the row itself is written, never a neighbour's. Order: bias, masks, penalties (vLLM's order).
"""

from __future__ import annotations

import torch

from gllm.worker.sampling.state import SamplingState


def edit_row(logits: torch.Tensor, slot: int, state: SamplingState) -> None:
    """logits: [vocab] float32, edited in place. Raises ValueError if the row's request must fail."""
    params = state.params[slot]
    if slot in state.failed:
        raise ValueError(state.failed[slot])
    if params.logit_bias:
        tokens = torch.tensor(list(params.logit_bias), dtype=torch.int64, device=logits.device)
        logits.index_add_(0, tokens, torch.tensor(list(params.logit_bias.values()), device=logits.device))
    masks = 0
    stops: torch.Tensor | None = None
    if state.num_output[slot] < params.min_tokens and params.stop_token_ids:
        stops = torch.tensor(params.stop_token_ids, dtype=torch.int64, device=logits.device)
        logits.index_fill_(0, stops, -torch.inf)
        masks += 1
    forbidden = state.forbidden.get(slot)
    if forbidden is not None:
        logits.masked_fill_(forbidden, -torch.inf)
        masks += 1
    bad_words = state.bad_words.get(slot)
    if bad_words is not None:
        bad_words.mask(logits)
        masks += 1
    grammar = state.grammar.get(slot)
    if grammar is not None:
        allowed = torch.from_numpy(grammar.allowed(params.stop_token_ids)).to(logits.device)
        logits.masked_fill_(~allowed, -torch.inf)
        masks += 1
    if masks > 1 and bool(logits.max() == -torch.inf):  # each alone leaves a token; this waits for the device
        if stops is None or grammar is None:
            raise ValueError("allowed_token_ids, bad_words and the grammar together leave no token to generate")
        logits.index_fill_(0, stops, 0.0)  # the grammar is at its end: only EOS can follow, however early it is
    counts = state.counts.get(slot)
    if counts is not None:
        if params.repetition_penalty != 1:
            # CTRL (arXiv 1909.05858), section 4.1, with the sign fix that transformers uses.
            penalised = torch.where(logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty)
            torch.where(counts.seen, penalised, logits, out=logits)
        # OpenAI's definition: mu[j] -= c[j] * frequency + (c[j] > 0) * presence
        logits -= counts.output * params.frequency_penalty + (counts.output > 0) * params.presence_penalty
