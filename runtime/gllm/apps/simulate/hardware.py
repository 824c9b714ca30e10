"""What the simulated pipeline is made of: stage times, transfers, the way over the engine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gllm.engine.time_model import Work


class StageTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of a micro-batch on one stage:

    a + max(floor, b * tokens) + c * sum(chunk * context) + d * sum(decode context) + e * sampled rows

    This is `gllm.engine.time_model` and one thing more, the `floor`: while weights are read, products of few
    tokens cost nothing. The scheduler's model does not have it: the simulator does not flatter a policy that uses the
    model.
    """

    a: float
    b: float
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    floor: float = 0.0

    def seconds(self, work: Work) -> float:
        return (
            self.a
            + max(self.floor, self.b * work.tokens)
            + self.c * work.attention
            + self.d * work.decode_context
            + self.e * work.sampled_rows
        )


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pipeline. All times are seconds."""

    stages: tuple[StageTimes, ...]
    kv_tokens: int
    """Tokens that the KV pool holds (the same on every stage: each holds its own layers' part of all tokens)."""
    transfer: float = 50e-6
    """Of activations to the next stage, whatever their number."""
    transfer_per_token: float = 0.1e-6
    engine: float = 300e-6
    """The engine's own time for a result and the plan that follows."""
    plan: float = 200e-6
    """A plan's way to a stage."""
    prepare: float = 2e-3
    """A stage's work on a plan before it can compute: inputs, launching. Hidden if the plan came early enough."""
    result: float = 300e-6
    """Sampled tokens' way from the last stage to the engine."""
    jitter: float = 0.03
    """Standard deviation of the logarithm of a step's time over the formula's."""

    @property
    def pp(self) -> int:
        return len(self.stages)


def read_hardware(path: Path) -> Hardware:
    """From a JSON file; ValueError says what is wrong with it."""
    try:
        hardware = msgspec.json.decode(path.read_bytes(), type=Hardware)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} does not describe a pipeline: {error}") from None
    if not hardware.stages:
        raise ValueError(f"{path} has no stages")
    return hardware
