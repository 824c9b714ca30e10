"""The queue of requests that wait for a slot: by priority, then arrival; every operation O(1) in its length."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator

from gllm.engine.sequence import Sequence
from gllm.engine.timing.time_model import chunk_pairs


class WaitingQueue:
    """Sequences in order of service, with the sum of the tokens they wait for."""

    def __init__(self) -> None:
        self._buckets: dict[int, OrderedDict[Sequence, float]] = {}
        """By priority; of each sequence what it adds to `pairs`."""
        self._priorities: list[int] = []
        self._length = 0
        self.tokens = 0
        """Sum of `queued_tokens`."""
        self.pairs = 0.0
        """Sum over these tokens of the context that each attends to."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for priority in self._priorities:
            yield from self._buckets[priority]

    def peek(self) -> Sequence | None:
        return next(iter(self._buckets[self._priorities[0]])) if self._length else None

    def push(self, seq: Sequence, *, front: bool = False) -> None:
        """Add at the back of its priority, or at the front (a preempted sequence, which arrived before the rest)."""
        bucket = self._buckets.get(seq.priority)
        if bucket is None:
            bucket = self._buckets[seq.priority] = OrderedDict()
            self._priorities.insert(bisect_left(self._priorities, seq.priority), seq.priority)
        bucket[seq] = pairs = _pairs(seq)
        if front:
            bucket.move_to_end(seq, last=False)
        self._length += 1
        self.tokens += seq.queued_tokens
        self.pairs += pairs

    def remove(self, seq: Sequence) -> None:
        bucket = self._buckets[seq.priority]
        self.pairs -= bucket.pop(seq)
        if not bucket:
            del self._buckets[seq.priority]
            del self._priorities[bisect_left(self._priorities, seq.priority)]
        self._length -= 1
        self.tokens -= seq.queued_tokens
        if not self._length:
            self.pairs = 0.0  # no sum of nothing may keep what rounding left

    def revise(self, seq: Sequence, queued_tokens: int) -> None:
        """The sequence, which is in the queue, now waits for this many tokens."""
        self.tokens += queued_tokens - seq.queued_tokens
        seq.queued_tokens = queued_tokens
        bucket = self._buckets[seq.priority]
        self.pairs -= bucket[seq]
        bucket[seq] = pairs = _pairs(seq)
        self.pairs += pairs


def _pairs(seq: Sequence) -> float:
    return chunk_pairs(len(seq.tokens) - seq.queued_tokens, seq.queued_tokens)
