"""The first stage's inputs: known token ids, and for decodes the tokens that the last stage sampled."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from gllm.parallel.stage_link import Receiver
from gllm.worker.devices import to_device
from gllm.worker.slots import Int64
from gllm.worker.step_batch import StepBatch


class LastTokens:
    """The token sampled last for each slot. Exists on every rank of the first stage.

    The last stage sends the tokens of each step that samples, in order of the steps. They are received only when a row
    needs them, or when they were certainly sent: otherwise this stage would wait for the last one without need. Rows of
    sequences that ended meanwhile are received like all others, so both ends always agree; a later sequence in
    the same slot samples its own token before it reads one.
    """

    def __init__(self, num_slots: int, most_in_flight: int, link: Receiver, device: torch.device) -> None:
        """most_in_flight: maximum number of steps in flight, as the engine counts them."""
        self._most_in_flight = most_in_flight
        self._link = link
        self._device = device
        self._tokens = torch.zeros(num_slots, dtype=torch.int64, device=device)
        """[slots]"""
        self._sampled_in = np.zeros(num_slots, np.int64)
        """[slots] the last step in which the slot's row samples."""
        self._expected: deque[tuple[int, Int64]] = deque()
        """(step, slots of its sampled rows), of steps whose tokens were not received yet."""
        self._step = 0
        """Steps so far, from 1."""

    def inputs(self, batch: StepBatch) -> torch.Tensor:
        """Return the step's token ids [n] int64 on the device. Called for each step with rows, in order.

        On a CPU it waits for the tokens that are still sampled, on CUDA the device does.
        """
        self._step += 1
        # When this step was scheduled, the engine had the result of the step `most_in_flight` before it.
        needed = self._step - self._most_in_flight
        if len(batch.device_slots):
            needed = max(needed, int(self._sampled_in[batch.device_slots].max()))
        while self._expected and self._expected[0][0] <= needed:
            slots = self._expected.popleft()[1]
            self._tokens[to_device(slots, self._device)] = self._link.receive(len(slots))
        token_ids = to_device(batch.token_ids, self._device)
        if len(batch.device_tokens):
            found = self._tokens[to_device(batch.device_slots, self._device)]
            token_ids[to_device(batch.device_tokens, self._device)] = found
        if len(batch.sample_rows):
            slots = batch.slots[batch.sample_rows].astype(np.int64)
            self._sampled_in[slots] = self._step
            self._expected.append((self._step, slots))
        return token_ids
