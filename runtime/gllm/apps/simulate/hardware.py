"""The description of a simulated pipeline: stage times, transfers, the time between a result and the next step."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

import msgspec

from gllm.engine.borders import StepSizes
from gllm.engine.policies import ceil_div
from gllm.engine.time_model import KNEE, Work
from gllm.worker.piece_sizes import efficient_sizes

TILE = 16
"""Tokens between two entries of `StageTimes.steps`."""


class StageTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of a micro-batch on one stage:

    a + products + g * max(tokens - KNEE, 0) + c * sum(chunk * context) + d * sum(decode context) + e * sampled rows

    Products are measured times (`steps`) or max(floor, b * tokens): while weights are read, products of few tokens cost
    nothing. The scheduler's model (`gllm.engine.time_model`) has neither steps nor a floor, but a knee at a fixed
    number of tokens, so the simulator does not favour a policy that uses the model.
    """

    a: float
    b: float
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    floor: float = 0.0
    steps: tuple[float, ...] = ()
    """Seconds of the matrix products of TILE, 2 * TILE, ... tokens, with the steps of their tiles; b for each further
    token. Empty: max(floor, b * tokens)."""
    g: float = 0.0
    """Only a fitted pipeline has it; such a pipeline has no floor."""

    def products(self, tokens: int) -> float:
        if not self.steps:
            return max(self.floor, self.b * tokens)
        index = max(ceil_div(tokens, TILE), 1) - 1
        if index < len(self.steps):
            return self.steps[index]
        return self.steps[-1] + self.b * (tokens - TILE * len(self.steps))

    def seconds(self, work: Work, padded: int = 0) -> float:
        """padded: tokens for which products are computed; 0: those of the work."""
        return (
            self.a
            + self.products(padded or work.tokens)
            + self.g * max(work.tokens - KNEE, 0)
            + self.c * work.attention
            + self.d * work.decode_context
            + self.e * work.sampled_rows
        )


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pipeline. All times are seconds."""

    stages: tuple[StageTimes, ...]
    kv_tokens: int
    """Tokens that the KV pool holds, the same on every stage: each holds its own layers' KV of all tokens."""
    transfer: float = 50e-6
    """Time to send activations to the next stage, without the share of each token."""
    transfer_per_token: float = 0.1e-6
    engine: float = 300e-6
    """The engine's own time for a result and the schedule of the next step."""
    dispatch: float = msgspec.field(default=200e-6, name="plan")
    """Time from the engine to a stage; the key in JSON files is `plan`."""
    prepare: float = 2e-3
    """Work of a stage before it computes a step: inputs, launches. Hidden if the step was sent early enough."""
    eager: float = 0.0
    """Host time to launch a step with prefill kernel by kernel, beside the device: such a step is not shorter. 0: such
    steps are captured, as decodes are."""
    result: float = 300e-6
    """Time of the sampled tokens, or of a stage's report, to the engine."""
    feedback: float = 50e-6
    """Time of the sampled tokens from the last stage to the first, if there are two."""
    step_sizes: tuple[int, ...] = ()
    """Numbers of tokens, ascending, to which captured steps with prefill are padded; larger steps are not."""
    jitter: float = 0.03
    """Standard deviation of log(time of a step / time by the formula)."""

    @property
    def pp(self) -> int:
        return len(self.stages)

    @property
    def borders(self) -> StepSizes:
        """The sizes that the workers would report."""
        seconds = [self.stages[0].seconds(Work(prefill_tokens=size)) for size in self.step_sizes]
        return StepSizes(self.step_sizes, tuple(efficient_sizes(self.step_sizes, seconds)))

    def padded(self, work: Work) -> int:
        """Return the number of tokens for which products are computed."""
        index = bisect_left(self.step_sizes, work.tokens)
        return self.step_sizes[index] if work.prefill_tokens and index < len(self.step_sizes) else work.tokens


def read_hardware(path: Path) -> Hardware:
    """Read a JSON file. Raises ValueError."""
    try:
        hardware = msgspec.json.decode(path.read_bytes(), type=Hardware)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} does not describe a pipeline: {error}") from None
    if not hardware.stages:
        raise ValueError(f"{path} has no stages")
    return hardware
