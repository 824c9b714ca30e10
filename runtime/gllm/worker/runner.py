"""Runs scheduled steps on one rank: its state, its layers, and on the last stage logits and sampling.

A step is launched and later collected. Between the two the host may already launch the next step: the sampled tokens
that it needs go from the last stage to the first on the device. `launch` never makes the host wait for the device; on a
CPU it waits for the inputs from another stage.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gllm.layers.attention_backends.backend import AttentionBackend, AttentionMetadata
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.parallel.world import World
from gllm.wire.messages import SchedulerOutput, StageReport, StepResult
from gllm.worker.captured_graph import CapturedGraph
from gllm.worker.devices import to_device
from gllm.worker.last_stage import LastStage, StageOutput
from gllm.worker.last_tokens import LastTokens
from gllm.worker.sampling.grammar import GrammarStore
from gllm.worker.slots import SlotTable
from gllm.worker.step_batch import StepBatch, build_batch


@dataclass(slots=True)
class LaunchedStep:
    """A step whose results may still be on the device."""

    scheduled: SchedulerOutput
    stage: int
    batch: StepBatch
    output: StageOutput | None
    """None on a stage that is not the last."""
    tokens: torch.Tensor | None
    """[sampled rows] int64 on the host, valid once `done` has passed."""
    started: float
    """time.time() at which its inputs had arrived (on CUDA: at which it was launched)."""
    elapsed: float
    """Seconds of compute; on CUDA known after `wait`."""
    begun: torch.cuda.Event | None
    done: torch.cuda.Event | None

    def wait(self) -> StageReport:
        """Wait for the device. Returns when the step ran on this stage, and for how long."""
        if self.done is not None and self.begun is not None:
            self.done.synchronize()
            self.elapsed = self.begun.elapsed_time(self.done) / 1000
            self.started = max(self.started, time.time() - self.elapsed)
        return StageReport(
            epoch=self.scheduled.epoch,
            step=self.scheduled.step,
            stage=self.stage,
            started=self.started,
            elapsed=self.elapsed,
        )

    def collect(self) -> StepResult:
        """Wait for the device and return the step's result; only on the rank that samples."""
        self.wait()
        return self.result()

    def result(self) -> StepResult:
        """Return the result of a step that was waited for; only on the rank that samples."""
        assert self.output is not None
        tokens = self.tokens.tolist() if self.tokens is not None else []
        logprobs = None
        errors: list[tuple[int, str]] = []
        if self.output.sampled is not None:
            logprobs = self.output.sampled.logprobs
            for index, message in self.output.sampled.errors.items():
                tokens[index] = -1
                errors.append((int(self.batch.sample_rows[index]), message))
        return StepResult(
            epoch=self.scheduled.epoch,
            step=self.scheduled.step,
            token_ids=tokens,
            elapsed=self.elapsed,
            logprobs=logprobs,
            prompt_logprobs=self.output.prompt_logprobs,
            errors=errors,
        )


class ModelRunner:
    """Owns the tensors of one rank. It has no sockets."""

    def __init__(
        self,
        model: CausalLM,
        attention: AttentionBackend,
        table: SlotTable,
        world: World,
        last_stage: LastStage | None,
        device: torch.device,
        graphs: Sequence[CapturedGraph] = (),
    ) -> None:
        """graphs: the first that fits a step runs it; if none does, the step runs eagerly."""
        self.model = model
        self.attention = attention
        self.table = table
        self.world = world
        self.last_stage = last_stage
        self.device = device
        self.graphs = graphs
        self._to_device = partial(to_device, device=device)
        self._last_tokens: LastTokens | None = None
        if world.from_last is not None:
            self._last_tokens = LastTokens(len(table.num_known), world.coords.pp + 1, world.from_last, device)

    @property
    def grammars(self) -> GrammarStore:
        """The compiled grammars; only on the rank that samples."""
        assert self.last_stage is not None
        assert self.last_stage.sampler is not None
        return self.last_stage.sampler.state.grammars

    @torch.inference_mode()
    def launch(self, scheduled: SchedulerOutput) -> LaunchedStep:
        """Apply the changes of state, then run the rows. All ranks get the same steps in the same order."""
        self.table.apply(scheduled)
        if self.last_stage is not None:
            self.last_stage.apply(scheduled)
        batch = build_batch(scheduled, self.table)
        graph = next((graph for graph in self.graphs if graph.fits(batch.attention)), None)
        # The host prepares what it can before it waits for the inputs.
        metadata = (graph or self.attention).prepare(batch.attention) if scheduled.slots else None
        inputs = self._inputs(batch) if scheduled.slots else None
        started, begun_at = time.time(), time.perf_counter()
        begun, done = self._events()
        output, tokens = None, None
        if metadata is not None and inputs is not None:
            states = self._forward(batch, inputs, metadata, graph)
            if self.last_stage is None:
                assert self.world.after is not None
                self.world.after.send(states)
            else:
                output = self._finish(batch, states)
        elif self.last_stage is not None:
            output = StageOutput()
        if output is not None and output.sampled is not None and output.tokens is not None:
            tokens = output.tokens
            if done is not None:
                tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True).copy_(tokens, non_blocking=True)
        if done is not None:
            done.record()
        elapsed = time.perf_counter() - begun_at
        return LaunchedStep(scheduled, self.world.coords.stage, batch, output, tokens, started, elapsed, begun, done)

    def _events(self) -> tuple[torch.cuda.Event | None, torch.cuda.Event | None]:
        if self.device.type != "cuda":
            return None, None
        begun: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        done: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begun.record()
        return begun, done

    def _forward(
        self,
        batch: StepBatch,
        inputs: torch.Tensor,
        metadata: AttentionMetadata,
        graph: CapturedGraph | None,
    ) -> torch.Tensor:
        """Run this stage's layers. inputs: see `_inputs`.

        Returns this stage's states [n, hidden]. On the last stage: only [sampled rows, hidden], unless all are needed;
        without sampled rows one meaningless row, so that no kernel gets an empty batch.
        """
        logits_indices = None
        if self.last_stage is not None and not self.last_stage.needs_every_state(batch):
            logits_indices = self._logits_indices(batch)
        step = Step(self._to_device(batch.positions), metadata, logits_indices)
        if graph is None:
            return self.model(inputs, step)
        states = graph.launch(inputs, step)
        # The graph's buffer may be padded, and the next launch overwrites it, maybe while it is being sent.
        return states[: len(batch.positions)].clone() if self.last_stage is None else states

    def _inputs(self, batch: StepBatch) -> torch.Tensor:
        """Return token ids [n] on the first stage, else the states [n, hidden] of the stage before."""
        if self._last_tokens is not None:
            return self._last_tokens.inputs(batch)
        assert self.world.before is not None
        return self.world.before.receive(len(batch.token_ids))

    def _logits_indices(self, batch: StepBatch) -> torch.Tensor | None:
        """See `Step`: the last token of each sampled row; None if those are all tokens."""
        if len(batch.sample_tokens) == len(batch.token_ids):
            return None
        tokens = batch.sample_tokens if len(batch.sample_tokens) else np.zeros(1, np.int64)
        return self._to_device(tokens)

    def _finish(self, batch: StepBatch, states: torch.Tensor) -> StageOutput:
        assert self.last_stage is not None
        every = states if len(states) >= len(batch.token_ids) else None
        last = states
        if every is not None and len(states) != len(batch.sample_tokens):
            last = every[self._to_device(batch.sample_tokens)]
        output = self.last_stage.run(batch, last, every)
        if output.tokens is not None:
            assert self.world.to_first is not None
            self.world.to_first.send(output.tokens)
        return output
