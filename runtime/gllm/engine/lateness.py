"""Which waiting requests cannot meet the TTFT target any more: they let later requests pass."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice

from gllm.engine.policies import Limits
from gllm.engine.policies.bound import prefill_room
from gllm.engine.queues import RunningSet, WaitingQueue
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import Cost, chunk_pairs

OVERTAKEN = 1024
"""Maximum number of later requests that overtake a late one: it does not starve."""
_LOOKED_AT = 64
"""Waiting requests whose lateness is judged in a step."""


def too_many(jobs: Iterable[tuple[float, float]]) -> list[int]:
    """Return the indices of the fewest jobs without which all others end in time.

    jobs: (seconds, seconds until due), in order of being due, on one machine. Whenever a job would end late, the
    longest of those so far is left out (Moore 1968, algorithm of Hodgson).
    """
    taken: list[tuple[float, int]] = []
    left_out = []
    end = 0.0
    for index, (seconds, due) in enumerate(jobs):
        heapq.heappush(taken, (-seconds, index))
        end += seconds
        if end > due:
            longest, which = heapq.heappop(taken)
            end += longest
            left_out.append(which)
    return left_out


def postpone_late(limits: Limits, cost: Cost, queue: WaitingQueue, running: RunningSet, now: float) -> None:
    """Move the requests that cannot get their first token in time behind OVERTAKEN later ones.

    Without this, under overload each request waits for those before it, and all are late. A request that has had its
    first token, and was preempted, is not late.
    """
    prefilling = sorted((seq for seq in running.prefilling if not seq.late), key=lambda seq: seq.rank)
    queued = (seq for seq in islice(queue, _LOOKED_AT) if not seq.late)
    waiting = [seq for seq in (*prefilling, *queued) if len(seq.tokens) == seq.num_prompt]
    if not waiting:
        return
    rows = running.num_decoding / limits.pp
    base = cost.a + cost.products(rows) + cost.e * rows + cost.d * running.decode_context / limits.pp
    room = prefill_room(limits, base)
    share = cost.bound_by_compute(room, int(rows)) / (base + room) if running.num_decoding else 1.0
    way = limits.pp * base

    def job(seq: Sequence) -> tuple[float, float]:
        start = seq.num_scheduled if seq.slot >= 0 else seq.num_prompt - seq.queued_tokens
        tokens = seq.num_prompt - start
        seconds = cost.prefill(tokens, chunk_pairs(start, tokens)) / share
        return seconds, limits.ttft_target - way - (now - seq.arrival_time)

    for index in too_many(map(job, waiting)):
        seq = waiting[index]
        queued_now = seq.slot < 0
        if queued_now:
            queue.remove(seq)
        seq.late = True
        seq.rank = (seq.priority, seq.rank[1] + OVERTAKEN)
        if queued_now:
            queue.push(seq)
