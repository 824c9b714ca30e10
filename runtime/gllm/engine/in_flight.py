"""The micro-batches in flight: which of them have reached the last stage, and whether another one may follow."""

from __future__ import annotations

import math
from collections import deque

from gllm.engine.batch import MicroBatch
from gllm.engine.time_model import Work


class InFlight:
    """Micro-batches that were sent and have no result yet. They pass the stages in order."""

    def __init__(self, pp: int) -> None:
        self.batches: deque[MicroBatch] = deque()
        """The oldest first."""
        self._pp = pp
        self._num_reached = 0
        """The number of batches that have reached the last stage: the first ones."""

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def full(self) -> bool:
        """Whether no other one may be sent: pp + 1 are in flight, or pp that have not reached the last stage.

        Those pp are one for each stage before the last one, and one that waits.
        """
        return len(self.batches) > self._pp or len(self.batches) - self._num_reached >= self._pp

    @property
    def first_step(self) -> float:
        """The step of the oldest one; infinite if there is none."""
        return self.batches[0].step if self.batches else math.inf

    @property
    def works(self) -> list[Work]:
        return [batch.work for batch in self.batches]

    @property
    def works_before_last_stage(self) -> list[Work]:
        """The work of those that have not reached the last stage."""
        return self.works[self._num_reached :]

    def reach_last_stage(self, step: int) -> list[MicroBatch]:
        """Record that this step and those before it have reached the last stage; return those that are new there."""
        reached = []
        while self._num_reached < len(self.batches) and self.batches[self._num_reached].step <= step:
            reached.append(self.batches[self._num_reached])
            self._num_reached += 1
        return reached

    def pop(self) -> MicroBatch:
        """Remove and return the oldest one, which has reached the last stage."""
        self._num_reached -= 1
        return self.batches.popleft()
