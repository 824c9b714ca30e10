"""The work that only the last stage does: logits, prompt logprobs, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from gllm.models.causal_lm import CausalLM
from gllm.parallel.tensor_group import TensorGroup
from gllm.wire.messages import SchedulerOutput, TokenLogprob
from gllm.worker.sampling.sampler import Sampled, Sampler, token_logprobs
from gllm.worker.slots import SlotTable
from gllm.worker.step_batch import StepBatch

LOGITS_ROWS = 256
"""Prompt logprobs are computed this many rows at a time, which bounds the memory of their logits."""

PromptLogprobs = list[tuple[int, list[TokenLogprob]]]
"""(row, logprobs of the prompt tokens that the row's chunk predicts)"""


@dataclass(slots=True)
class StageOutput:
    """The result of a step. The device may still compute the tokens."""

    tokens: torch.Tensor | None = None
    """[sampled rows] int64 on the device; None if nothing was sampled."""
    sampled: Sampled | None = None
    prompt_logprobs: PromptLogprobs = field(default_factory=list)


class LastStage:
    """Exists on every rank of the last stage, since each of them computes a share of the logits.

    Only the first rank has a sampler. It broadcasts its tokens, and each rank sends them to a rank of the first stage,
    which can run the next step before the engine has them.
    """

    def __init__(
        self,
        model: CausalLM,
        group: TensorGroup,
        table: SlotTable,
        sampler: Sampler | None,
        *,
        device: torch.device,
    ) -> None:
        self._model = model
        self._group = group
        self._table = table
        self.sampler = sampler
        self._device = device
        num_slots = len(table.num_known)
        self._num_prompt_logprobs = np.full(num_slots, -1, np.int64)
        """[slots] -1: none requested."""
        self._logits: torch.Tensor | None = None
        if device.type == "cpu":  # on CUDA the next step may be launched while these logits are still read
            self._logits = torch.empty(num_slots, model.config.vocab_size)

    def apply(self, scheduled: SchedulerOutput) -> None:
        """Forget and register sequences."""
        for sequence in scheduled.new:
            asked = sequence.sampling.prompt_logprobs
            self._num_prompt_logprobs[sequence.slot] = -1 if asked is None else asked
        if self.sampler is not None:
            for slot in scheduled.freed:
                self.sampler.state.forget(slot)
            for sequence in scheduled.new:
                self.sampler.state.register(sequence)

    def needs_every_state(self, batch: StepBatch) -> bool:
        """Whether a row has prompt logprobs, which need the states of all its tokens."""
        return bool((self._num_prompt_logprobs[batch.slots] >= 0).any())

    def run(self, batch: StepBatch, last: torch.Tensor, every: torch.Tensor | None) -> StageOutput:
        """Score prompts and sample. last: states [sampled rows, hidden]; every: all states [n, hidden], or None."""
        output = StageOutput()
        if every is not None and self.needs_every_state(batch):
            output.prompt_logprobs = self._score_prompts(batch, every)
        if len(batch.sample_rows):
            logits = self._model.logits(last, self._logits)
            if self.sampler is not None:
                output.sampled = self.sampler.sample(logits, batch.slots[batch.sample_rows])
                output.tokens = output.sampled.tokens
            if self._group.size > 1:
                tokens = output.tokens
                if tokens is None:
                    tokens = torch.empty(len(batch.sample_rows), dtype=torch.int64, device=self._device)
                output.tokens = self._group.broadcast(tokens)
        return output

    def _score_prompts(self, batch: StepBatch, hidden: torch.Tensor) -> PromptLogprobs:
        """Return, for rows with prompt logprobs, the log-probability of each prompt token that this chunk predicts."""
        found: PromptLogprobs = []
        first = 0
        asks = self._num_prompt_logprobs[batch.slots] >= 0
        for row, slot in enumerate(batch.slots.tolist()):
            num_tokens = int(batch.attention.query_lens[row])
            start = int(batch.starts[row])
            stop = min(start + num_tokens, int(self._table.num_prompt[slot]) - 1)
            if asks[row] and stop > start:
                targets = torch.from_numpy(self._table.tokens(slot)[start + 1 : stop + 1]).to(self._device)
                num_top = int(self._num_prompt_logprobs[slot])
                entries: list[TokenLogprob] = []
                for low in range(0, stop - start, LOGITS_ROWS):
                    high = min(low + LOGITS_ROWS, stop - start)
                    logits = self._model.logits(hidden[first + low : first + high])
                    if self.sampler is not None:
                        entries += token_logprobs(logits, targets[low:high], [num_top] * (high - low))
                found.append((row, entries))
            first += num_tokens
        return found
