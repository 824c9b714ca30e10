"""Stages in series: when each begins and ends a micro-batch whose plan is known ahead."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gllm.apps.simulate.hardware import Hardware
from gllm.engine.time_model import Work


@dataclass(frozen=True, slots=True)
class Passage:
    """A micro-batch on its way: (start, seconds) on each stage, and when its tokens reach the engine."""

    slices: list[tuple[float, float]]
    answered: float


class Pipeline:
    """Micro-batches keep their order on every stage, so a passage is known as soon as the plan is sent.

    A stage begins when it is free, has the activations of the stage before, and has prepared the plan, which went to
    all stages at once. Plans are prepared one after the other, while the stage computes earlier ones.
    """

    def __init__(self, hardware: Hardware, seed: int) -> None:
        self._hardware = hardware
        self._random = random.Random(f"{seed}/jitter")
        self._free = [0.0] * hardware.pp
        self._host_free = [0.0] * hardware.pp
        self.busy = [0.0] * hardware.pp
        """Seconds that each stage has computed."""

    def send(self, work: Work, now: float) -> Passage:
        """The engine sends a plan at `now`."""
        hardware = self._hardware
        arrival = now + hardware.plan
        transfer = hardware.transfer + hardware.transfer_per_token * work.tokens
        slices = []
        ready = 0.0
        for stage, times in enumerate(hardware.stages):
            self._host_free[stage] = prepared = max(arrival, self._host_free[stage]) + hardware.prepare
            start = max(self._free[stage], ready, prepared)
            elapsed = times.seconds(work)
            if hardware.jitter:
                elapsed *= self._random.lognormvariate(0.0, hardware.jitter)
            self._free[stage] = end = start + elapsed
            self.busy[stage] += elapsed
            slices.append((start, elapsed))
            ready = end + transfer
        return Passage(slices, self._free[-1] + hardware.result)
