"""The last stage's sampler: logits of a micro-batch in, one token per row out, and log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gllm.wire.messages import TokenLogprob
from gllm.worker.devices import to_device
from gllm.worker.sampling.choose import choose, uniform
from gllm.worker.sampling.state import SamplingState
from gllm.worker.slots import Int32


@dataclass(slots=True)
class Sampled:
    """The device may still compute the tokens; the rest is on the host."""

    tokens: torch.Tensor
    """[rows] int64 on the device."""
    logprobs: list[TokenLogprob | None] | None
    errors: dict[int, str]
    """Index among the sampled rows -> the reason why its request fails."""


class Sampler:
    """`argmax` may be replaced by a kernel: [rows, vocab] float32 -> [rows] int64, the lowest index on ties."""

    def __init__(self, state: SamplingState, argmax: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.state = state
        self._argmax = argmax or (lambda logits: logits.argmax(dim=-1))

    def sample(self, logits: torch.Tensor, slots: Int32) -> Sampled:
        """Sample a token for each row. logits: [rows, vocab] float32, may be edited in place; slots: [rows]."""
        state = self.state
        has_logprobs = state.num_logprobs[slots] >= 0
        raw = logits[torch.from_numpy(np.flatnonzero(has_logprobs)).to(logits.device)] if has_logprobs.any() else None
        errors = self._edit(logits, slots)
        tokens = self._choose(logits, slots)
        self._advance(tokens, slots, errors)
        logprobs: list[TokenLogprob | None] | None = None
        if raw is not None:
            rows = np.flatnonzero(has_logprobs)
            chosen = tokens[torch.from_numpy(rows).to(tokens.device)]
            params = [state.params[slot] for slot in slots[rows].tolist()]
            requested = {row: one.logprob_token_ids for row, one in enumerate(params) if one.logprob_token_ids}
            found = iter(token_logprobs(raw, chosen, state.num_logprobs[slots[rows]].tolist(), requested=requested))
            logprobs = [next(found) if has else None for has in has_logprobs.tolist()]
        return Sampled(tokens, logprobs, errors)

    def _edit(self, logits: torch.Tensor, slots: Int32) -> dict[int, str]:
        errors = {}
        for row in np.flatnonzero(self.state.edits_logits[slots]).tolist():
            try:
                edit_row(logits[row], int(slots[row]), self.state)
            except ValueError as error:
                errors[row] = str(error)
        return errors

    def _choose(self, logits: torch.Tensor, slots: Int32) -> torch.Tensor:
        """Greedy, plain random and filtered rows are computed apart: a row's result never depends on other rows."""
        state = self.state
        random = state.temperature[slots] > 0
        if not random.any():
            return self._argmax(logits)
        filtered = random & ((state.top_k[slots] > 0) | (state.top_p[slots] < 1) | (state.min_p[slots] > 0))
        if filtered.all():
            return self._draw(logits, slots, filtered=True)
        plain = random & ~filtered
        if plain.all():
            return self._draw(logits, slots, filtered=False)
        tokens = self._argmax(logits)
        for mask, is_filtered in ((plain, False), (filtered, True)):
            if mask.any():
                rows = np.flatnonzero(mask)
                index = torch.from_numpy(rows).to(logits.device)
                tokens.index_copy_(0, index, self._draw(logits[index], slots[rows], filtered=is_filtered))
        return tokens

    def _draw(self, logits: torch.Tensor, slots: Int32, *, filtered: bool) -> torch.Tensor:
        state, device = self.state, logits.device
        uniforms = uniform(state.seed[slots], state.num_output[slots].astype(np.uint64))
        return choose(
            logits,
            to_device(state.temperature[slots], device),
            to_device(state.top_k[slots], device),
            to_device(state.top_p[slots], device),
            to_device(state.min_p[slots], device),
            to_device(uniforms, device),
            filtered=filtered,
            largest_k=int(state.top_k[slots].max()),
        )

    def _advance(self, tokens: torch.Tensor, slots: Int32, errors: dict[int, str]) -> None:
        state = self.state
        state.num_output[slots] += 1
        if not (state.counts or state.grammar or state.bad_words):
            return
        for row, slot in enumerate(slots.tolist()):
            if slot in state.counts:
                state.counts[slot].add(tokens[row : row + 1])
            if slot in state.bad_words:
                state.bad_words[slot].add(tokens[row : row + 1])
            if slot in state.grammar and row not in errors:
                try:
                    # The next mask needs this token on the host: a grammar row waits for the device.
                    state.grammar[slot].advance([int(tokens[row])])
                except ValueError as error:
                    errors[row] = str(error)


def edit_row(logits: torch.Tensor, slot: int, state: SamplingState) -> None:
    """Edit the logits [vocab] float32 of one row in place, in vLLM's order: bias, masks, penalties.

    Raises ValueError if the row's request must fail.
    """
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
    if masks > 1 and bool(logits.max() == -torch.inf):  # each mask alone leaves a token; this waits for the device
        if stops is None or grammar is None:
            raise ValueError("allowed_token_ids, bad_words and the grammar together leave no token to generate")
        logits.index_fill_(0, stops, 0.0)  # the grammar has ended: only EOS can follow, even before min_tokens
    counts = state.counts.get(slot)
    if counts is not None:
        if params.repetition_penalty != 1:
            # CTRL (arXiv 1909.05858), section 4.1, with the sign fix that transformers uses.
            penalised = torch.where(logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty)
            torch.where(counts.seen, penalised, logits, out=logits)
        # OpenAI's definition: mu[j] -= c[j] * frequency + (c[j] > 0) * presence
        logits -= counts.output * params.frequency_penalty + (counts.output > 0) * params.presence_penalty


def token_logprobs(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    num_top: list[int],
    *,
    requested: Mapping[int, Sequence[int]] | None = None,
) -> list[TokenLogprob]:
    """Return the log-probabilities of chosen tokens and of alternatives, from unmodified logits.

    logits: [rows, vocab] float32; tokens: [rows] int64, the chosen tokens; num_top: the number of alternatives for each
    row. requested: row -> alternatives instead of the most likely tokens; the chosen token is added to them.
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
    for row, alternatives in (requested or {}).items():
        tokens_of_row = list(dict.fromkeys([*alternatives, entries[row].token_id]))
        found = logprobs[row, torch.tensor(tokens_of_row, device=logprobs.device)].tolist()
        entries[row].top = list(zip(tokens_of_row, found, strict=True))
    return entries
