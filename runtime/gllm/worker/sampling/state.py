"""Sampling parameters of the live sequences, as arrays over slots."""

from __future__ import annotations

import numpy as np
import torch

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import NewSequence
from gllm.worker.sampling.grammar import GrammarState, GrammarStore

_ANY = -2
"""In a run's prefix: matches any token."""
_NOTHING = -1
"""In the history: before the first token of the output."""


class TokenCounts:
    """Counts of each token, for the three penalties. A sequence with a penalty has its own counts."""

    def __init__(self, sequence: NewSequence, vocab_size: int, device: torch.device) -> None:
        tokens = torch.tensor(sequence.token_ids, dtype=torch.int64)
        output = tokens[sequence.num_prompt_tokens :]
        self.seen = torch.zeros(vocab_size, dtype=torch.bool)
        """[vocab] in the prompt or the output: repetition penalty."""
        self.seen[tokens] = True
        self.seen = self.seen.to(device)
        self.output = torch.bincount(output, minlength=vocab_size).to(torch.float32).to(device)
        """[vocab] occurrences in the output: presence and frequency penalties."""

    def add(self, token: torch.Tensor) -> None:
        """Count a sampled token: [1] int64 on the device. Does not wait for the device."""
        self.seen.index_fill_(0, token, True)
        self.output.index_add_(0, token, torch.ones_like(token, dtype=torch.float32))


class BadWords:
    """Runs of tokens that a sequence must not generate.

    Masks the last token of each run where the output ends with the tokens before it. The end of the output stays on the
    device, so that no step waits for the token of the step before.
    """

    def __init__(self, runs: tuple[tuple[int, ...], ...], output: list[int], device: torch.device) -> None:
        """output: the tokens that the sequence has generated so far."""
        width = max(len(run) for run in runs) - 1
        prefixes = [[_ANY] * (width - len(run) + 1) + list(run[:-1]) for run in runs]
        self._prefixes = torch.tensor(prefixes, dtype=torch.int64, device=device).view(len(runs), width)
        """[runs, width]"""
        self._free = self._prefixes == _ANY
        self._last = torch.tensor([run[-1] for run in runs], dtype=torch.int64, device=device)
        """[runs]"""
        recent = ([_NOTHING] * width + output)[len(output) :]
        self._recent = torch.tensor(recent, dtype=torch.int64, device=device)
        """[width] the output's last tokens."""

    def mask(self, logits: torch.Tensor) -> None:
        """Mask the tokens that would complete a run. logits: [vocab] float32, edited in place."""
        matches = ((self._prefixes == self._recent) | self._free).all(-1)
        # Several runs may end in the same token: adding is the same in any order.
        logits.index_add_(0, self._last, torch.where(matches, -torch.inf, 0.0).to(logits.dtype))

    def add(self, token: torch.Tensor) -> None:
        """Append a sampled token: [1] int64 on the device. Does not wait for the device."""
        if len(self._recent):
            self._recent = torch.cat((self._recent[1:], token))


class SamplingState:
    """Arrays over slots: a step gathers the parameters of its rows by indexing."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device, grammars: GrammarStore) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.grammars = grammars
        self.params: list[SamplingParams] = [SamplingParams()] * max_num_seqs
        self.seed = np.zeros(max_num_seqs, np.uint64)
        self.num_output = np.zeros(max_num_seqs, np.int64)
        """Tokens sampled so far, counting steps that are still running: the position of the next draw."""
        self.temperature = np.zeros(max_num_seqs, np.float32)
        self.top_p = np.ones(max_num_seqs, np.float32)
        self.top_k = np.zeros(max_num_seqs, np.int64)
        """0 keeps all."""
        self.min_p = np.zeros(max_num_seqs, np.float32)
        self.num_logprobs = np.full(max_num_seqs, -1, np.int64)
        """-1: none requested."""
        self.edits_logits = np.zeros(max_num_seqs, np.bool_)
        """Whether the row has a bias, a mask, a penalty, min_tokens or a grammar, and so takes the slow path."""
        self.counts: dict[int, TokenCounts] = {}
        self.forbidden: dict[int, torch.Tensor] = {}
        """[vocab] bool on the device: not among the row's allowed_token_ids."""
        self.bad_words: dict[int, BadWords] = {}
        self.grammar: dict[int, GrammarState] = {}
        self.failed: dict[int, str] = {}
        """Slots whose output does not fit their grammar: reported with their first sampled row."""

    def register(self, sequence: NewSequence) -> None:
        slot, params = sequence.slot, sequence.sampling
        self.forget(slot)
        assert params.seed is not None, "the engine sets a seed for every sequence"
        self.params[slot] = params
        self.seed[slot] = np.uint64(params.seed & 0xFFFFFFFFFFFFFFFF)
        self.num_output[slot] = len(sequence.token_ids) - sequence.num_prompt_tokens
        self.temperature[slot] = params.temperature
        self.top_p[slot] = params.top_p
        self.top_k[slot] = max(params.top_k, 0)
        self.min_p[slot] = params.min_p
        self.num_logprobs[slot] = -1 if params.logprobs is None else params.logprobs
        penalised = params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1
        self.edits_logits[slot] = bool(
            penalised
            or params.logit_bias
            or params.min_tokens
            or sequence.grammar
            or params.allowed_token_ids
            or params.bad_word_ids
        )
        output = sequence.token_ids[sequence.num_prompt_tokens :]
        if params.allowed_token_ids:
            forbidden = torch.ones(self.vocab_size, dtype=torch.bool)
            forbidden[list(params.allowed_token_ids)] = False
            self.forbidden[slot] = forbidden.to(self.device)
        if params.bad_word_ids:
            self.bad_words[slot] = BadWords(params.bad_word_ids, output, self.device)
        if penalised:
            self.counts[slot] = TokenCounts(sequence, self.vocab_size, self.device)
        if sequence.grammar:
            try:
                self.grammar[slot] = self.grammars.start(sequence.grammar, output)
            except ValueError as error:
                self.failed[slot] = str(error)

    def forget(self, slot: int) -> None:
        self.counts.pop(slot, None)
        self.forbidden.pop(slot, None)
        self.bad_words.pop(slot, None)
        self.grammar.pop(slot, None)
        self.failed.pop(slot, None)
