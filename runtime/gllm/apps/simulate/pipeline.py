"""Stages in series: when each stage computes a micro-batch."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gllm.apps.simulate.hardware import Hardware
from gllm.engine.time_model import Work


@dataclass(frozen=True, slots=True)
class StageIntervals:
    """The times at which one micro-batch is computed, in seconds."""

    intervals: list[tuple[float, float]]
    """(start, duration) on each stage."""
    result_time: float
    """The time at which its sampled tokens reach the engine."""
    tokens_time: float
    """The time at which they reach the first stage."""


class Pipeline:
    """Computes the intervals of micro-batches, which keep their order on every stage.

    A stage starts a micro-batch when three things are done: the one before it on this stage, its preparation, and the
    transfer of its inputs from the stage before (to the first stage: of sampled tokens from the last one). Scheduler
    outputs go to all stages at once; a stage prepares them one after the other, while it computes earlier ones. An
    eager step ends no earlier than the host has launched its last kernel.
    """

    def __init__(self, hardware: Hardware, seed: int) -> None:
        self._hardware = hardware
        self._random = random.Random(f"{seed}/jitter")
        self._free = [0.0] * hardware.pp
        self._host_free = [0.0] * hardware.pp
        self.busy = [0.0] * hardware.pp
        """Seconds of computation of each stage."""

    def send(self, work: Work, now: float, ready: float = 0.0) -> StageIntervals:
        """Send a micro-batch to all stages at `now`. ready: the time at which the first stage has its input tokens."""
        hardware = self._hardware
        arrival = now + hardware.dispatch
        transfer = hardware.transfer + hardware.transfer_per_token * work.tokens
        padded = hardware.padded(work)
        intervals = []
        for stage, times in enumerate(hardware.stages):
            self._host_free[stage] = prepared = max(arrival, self._host_free[stage]) + hardware.prepare
            start = max(self._free[stage], ready, prepared)
            elapsed = times.seconds(work, padded)
            if hardware.jitter:
                elapsed *= self._random.lognormvariate(0.0, hardware.jitter)
            end = start + elapsed
            if hardware.eager and work.prefill_tokens:
                self._host_free[stage] += hardware.eager
                end = max(end, self._host_free[stage])
            self._free[stage] = end
            self.busy[stage] += end - start
            intervals.append((start, end - start))
            ready = end + transfer
        feedback = hardware.feedback if hardware.pp > 1 else 0.0
        return StageIntervals(intervals, end + hardware.result, end + feedback)
