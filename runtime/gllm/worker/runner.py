"""Runs step plans on one device: state, forward pass, sampling.

A step is launched and later collected. Between the two the host may already launch the next one: what a
step needs of its predecessor (the sampled tokens) stays on the device, and the host never waits in `launch`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gllm.attention.base import AttentionBackend
from gllm.messages import StepPlan, StepResult, TokenLogprob
from gllm.models.base import CausalLM
from gllm.worker.batch import StepBatch, build_batch
from gllm.worker.graphs import DecodeGraphs
from gllm.worker.sampling.logprobs import token_logprobs
from gllm.worker.sampling.sampler import Sampled, Sampler
from gllm.worker.sampling.state import SamplingState
from gllm.worker.slots import SlotTable

LOGITS_ROWS = 256
"""Prompt logprobs are computed this many rows at a time, which bounds the memory of their logits."""


@dataclass(slots=True)
class LaunchedStep:
    """A step whose results may still be on the device."""

    plan: StepPlan
    batch: StepBatch
    sampled: Sampled | None
    tokens: torch.Tensor | None
    """[sampled rows] int64 on the host, valid once `done` has passed."""
    prompt_logprobs: list[tuple[int, list[TokenLogprob]]]
    started: float
    done: torch.cuda.Event | None
    begun: torch.cuda.Event | None

    def collect(self) -> StepResult:
        """Wait for the device and return the step's result."""
        if self.done is not None and self.begun is not None:
            self.done.synchronize()
            elapsed = self.begun.elapsed_time(self.done) / 1000
        else:
            elapsed = time.perf_counter() - self.started
        tokens = self.tokens.tolist() if self.tokens is not None else []
        logprobs = None
        errors: list[tuple[int, str]] = []
        if self.sampled is not None:
            logprobs = self.sampled.logprobs
            for index, message in self.sampled.errors.items():
                tokens[index] = -1
                errors.append((int(self.batch.sample_rows[index]), message))
        return StepResult(
            epoch=self.plan.epoch,
            step=self.plan.step,
            token_ids=tokens,
            elapsed=elapsed,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            errors=errors,
        )


class ModelRunner:
    """Owns the tensors of one rank; knows nothing of sockets."""

    def __init__(
        self,
        model: CausalLM,
        attention: AttentionBackend,
        sampling: SamplingState,
        sampler: Sampler,
        table: SlotTable,
        device: torch.device,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.model = model
        self.graphs = graphs
        self.attention = attention
        self.sampling = sampling
        self.sampler = sampler
        self.table = table
        self.device = device
        self._last_tokens = torch.zeros(len(table.num_known), dtype=torch.int64, device=device)
        """[slots] the token sampled last for each slot: input of its next decode row."""
        self._logits: torch.Tensor | None = None
        if device.type == "cpu":  # steps follow one another; on CUDA the next may be launched while these are read
            self._logits = torch.empty(len(table.num_known), sampling.vocab_size)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> LaunchedStep:
        started = time.perf_counter()
        begun, done = self._events()
        self.table.apply(plan)
        for slot in plan.freed:
            self.sampling.forget(slot)
        for sequence in plan.new:
            self.sampling.register(sequence)
        batch = build_batch(plan, self.table)
        prompt_logprobs: list[tuple[int, list[TokenLogprob]]] = []
        sampled, tokens = None, None
        if plan.slots:
            last, every = self._forward(batch)
            if every is not None:
                prompt_logprobs = self._prompt_logprobs(batch, every)
        if len(batch.sample_rows):
            logits = self.model.logits(last, self._logits)
            slots = batch.slots[batch.sample_rows]
            sampled = self.sampler.sample(logits, slots)
            self._last_tokens[self._to_device(slots.astype(np.int64))] = sampled.tokens
            tokens = sampled.tokens
            if done is not None:
                tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True).copy_(tokens, non_blocking=True)
        if done is not None:
            done.record()
        return LaunchedStep(plan, batch, sampled, tokens, prompt_logprobs, started, done, begun)

    def _events(self) -> tuple[torch.cuda.Event | None, torch.cuda.Event | None]:
        if self.device.type != "cuda":
            return None, None
        begun: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        done: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begun.record()
        return begun, done

    def _forward(self, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states after the final norm: [sampled rows, hidden], and [n, hidden] where prompt logprobs need all.

        Without sampled rows the first result is meaningless: one row, since kernels need not know empty batches.
        """
        token_ids, positions = self._to_device(batch.token_ids), self._to_device(batch.positions)
        if len(batch.device_tokens):
            token_ids[self._to_device(batch.device_tokens)] = self._last_tokens[self._to_device(batch.device_slots)]
        wanted = self._to_device(batch.sample_tokens) if len(batch.sample_tokens) else positions.new_zeros(1)
        if self.graphs is not None and self.graphs.fits(batch.attention):
            size = self.graphs.plan(batch.attention)
            self.graphs.token_ids[: len(token_ids)] = token_ids
            self.graphs.positions[: len(positions)] = positions
            every = self.graphs.replay(size)
            return every[wanted], every
        plan = self.attention.plan(batch.attention)
        if (self.sampling.num_prompt_logprobs[batch.slots] >= 0).any():
            every = self.model.forward(token_ids, positions, self.attention, plan)
            return every[wanted], every
        if len(wanted) == len(token_ids):
            return self.model.forward(token_ids, positions, self.attention, plan), None
        return self.model.forward(token_ids, positions, self.attention, plan, wanted), None

    def _prompt_logprobs(self, batch: StepBatch, hidden: torch.Tensor) -> list[tuple[int, list[TokenLogprob]]]:
        """For rows that ask: the log-probability of each prompt token that this chunk predicts."""
        found = []
        first = 0
        asks = self.sampling.num_prompt_logprobs[batch.slots] >= 0
        if not asks.any():
            return []
        for row, slot in enumerate(batch.slots.tolist()):
            num_tokens = int(batch.attention.query_lens[row])
            start = int(batch.starts[row])
            stop = min(start + num_tokens, int(self.table.num_prompt[slot]) - 1)
            if asks[row] and stop > start:
                targets = torch.from_numpy(self.table.tokens(slot)[start + 1 : stop + 1]).to(self.device)
                num_top = int(self.sampling.num_prompt_logprobs[slot])
                entries: list[TokenLogprob] = []
                for low in range(0, stop - start, LOGITS_ROWS):
                    high = min(low + LOGITS_ROWS, stop - start)
                    logits = self.model.logits(hidden[first + low : first + high])
                    entries += token_logprobs(logits, targets[low:high], [num_top] * (high - low))
                found.append((row, entries))
            first += num_tokens
        return found

    def _to_device(self, array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)
