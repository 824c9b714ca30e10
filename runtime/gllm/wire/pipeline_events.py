"""What the engine tells viewers of its pipeline. The fields have the same names in the JSON of `GET /pipeline/events`.

All times are seconds since 1970 on the engine's clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gllm.wire.base import Message


class Watch(Message):
    """The gateway has viewers of the pipeline: send `PipelineEvents` for some time."""

    seconds: float


class BatchSent(msgspec.Struct, kw_only=True):
    """A micro-batch was sent to the stages."""

    step: int
    time: float
    prefill_tokens: int
    decode_tokens: int
    num_sequences: int
    rows: list[tuple[int, int]]
    """(number of the request, its tokens) for some of the sequences: prefill chunks first."""


class StageRun(msgspec.Struct, kw_only=True):
    """A stage computed a micro-batch, as its worker reports."""

    step: int
    stage: int
    start: float
    seconds: float


class BatchDone(msgspec.Struct, kw_only=True):
    """The engine has the result of a micro-batch."""

    step: int
    time: float


class RequestEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A moment in the life of a sequence."""

    number: int
    """Names it in `BatchSent.rows`."""
    kind: Literal["scheduled", "first_token", "end"]
    """scheduled: it is in a micro-batch for the first time that a viewer sees."""
    time: float
    id: str = ""
    """With `scheduled`: the request's id in the engine."""
    arrival: float = 0.0
    """With `scheduled`."""
    prompt_tokens: int = 0
    """With `scheduled`."""
    cached_tokens: int = 0
    """With `scheduled`: those of the prompt that the prefix cache has."""
    output_tokens: int = 0
    """So far."""
    preemptions: int = 0
    """So far."""
    reason: str = ""
    """With `end`: stop, length, abort or error."""


class PipelineEvents(Message, kw_only=True):
    """What happened in the pipeline since the last message."""

    time: float
    """When this message was made."""
    sent: list[BatchSent] = msgspec.field(default_factory=list)
    stages: list[StageRun] = msgspec.field(default_factory=list)
    done: list[BatchDone] = msgspec.field(default_factory=list)
    requests: list[RequestEvent] = msgspec.field(default_factory=list)
    dropped: int = 0
    """Micro-batches that are not in `sent`, because there were too many."""
    clock_shifts: list[float] = msgspec.field(default_factory=list)
    """Seconds that were added to the times of each stage, because its clock differs from the engine's."""
