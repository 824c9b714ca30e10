"""Builds the `Snapshot` that a policy sees, from the scheduler's queues."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import chain, islice
from typing import Any

from gllm.engine.in_flight import InFlight
from gllm.engine.meter import Meter
from gllm.engine.policies import Limits, Snapshot, Waiting
from gllm.engine.queues import RunningSet, WaitingQueue
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import Work, chunk_pairs

_LISTED = 32
"""Queued requests whose prefix hits are looked up again at each step, and which a policy sees one by one."""


def take_snapshot(
    limits: Limits,
    queue: WaitingQueue,
    running: RunningSet,
    in_flight: InFlight,
    meter: Meter,
    *,
    kv_reserve: float,
    now: float | None,
) -> Snapshot:
    """Return the snapshot that a policy reads. now: on the scheduler's clock; None: the policy does not use time."""
    for seq in islice(queue, _LISTED):
        queue.estimate_hits(seq, running.pool)
    return Snapshot(
        limits=limits,
        waiting_tokens=waiting_tokens(queue, running),
        waiting_requests=len(queue) + len(running.prefilling),
        ready_decodes=len(running.ready),
        total_decodes=running.num_decoding,
        decode_context=running.decode_context,
        kv_free=running.pool.free_share,
        in_flight=len(in_flight),
        decodes_in_flight=sum(work.decode_rows > 0 for work in in_flight.works_before_last_stage),
        step_times=tuple(meter.step_times),
        kv_reserve=kv_reserve,
        **({} if now is None else _predicted_times(queue, running, in_flight.works, meter, now)),
    )


def waiting_tokens(queue: WaitingQueue, running: RunningSet) -> int:
    """Return the number of prompt tokens of queued requests and unfinished prefills that are not computed yet."""
    return queue.tokens + sum(seq.num_uncomputed for seq in running.prefilling)


def _predicted_times(
    queue: WaitingQueue, running: RunningSet, in_flight: Seq[Work], meter: Meter, now: float
) -> dict[str, Any]:
    """Return the fields of a `Snapshot` about time. Takes tens of microseconds with 256 ready decodes."""
    cost = meter.times.cost
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
    """Describe a prompt of which `start` tokens are computed or cached and `tokens` wait.

    Its age counts only until its first token.
    """
    age = now - seq.arrival_time if len(seq.tokens) == seq.num_prompt else 0.0
    return Waiting(tokens, chunk_pairs(start, tokens), age)
