"""What policies that look at time see: the system's queues in terms of the time model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from gllm.engine.policies import Waiting
from gllm.engine.running import RunningSet
from gllm.engine.sequence import Sequence
from gllm.engine.timing.time_model import Cost, Work, chunk_pairs
from gllm.engine.waiting import WaitingQueue

_LISTED = 32
"""Queued requests that a policy sees one by one."""


def predicted_times(
    cost: Cost, in_flight: Iterable[Work], running: RunningSet, queue: WaitingQueue, now: float
) -> dict[str, Any]:
    """The fields of a `Snapshot` that tell of time. Costs tens of microseconds at 256 ready decodes."""
    prefilling = sorted(running.prefilling, key=lambda seq: seq.rank)
    waiting = [_waiting(seq, seq.num_scheduled, seq.num_uncomputed, now) for seq in prefilling]
    pairs = queue.pairs + sum(entry.pairs for entry in waiting)
    queued = (
        _waiting(seq, len(seq.tokens) - seq.queued_tokens, seq.queued_tokens, now) for seq in islice(queue, _LISTED)
    )
    return {
        "cost": cost,
        "in_flight_seconds": tuple([cost.predict(work) for work in in_flight]),
        "ready_contexts": tuple([seq.num_scheduled + 1 for seq in running.ready]),
        "waiting_pairs": pairs,
        "waiting": tuple(chain(waiting, queued)),
    }


def _waiting(seq: Sequence, start: int, tokens: int, now: float) -> Waiting:
    """`start` tokens of it are computed or cached, `tokens` wait. Its age counts while it has had no token."""
    age = now - seq.arrival_time if len(seq.tokens) == seq.num_prompt else 0.0
    return Waiting(tokens, chunk_pairs(start, tokens), age)
