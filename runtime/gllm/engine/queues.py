"""Live sequences: the queue of sequences that wait for a slot, and the set of sequences that have a slot."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator

from gllm.engine.kv_pages import PagePool, extend_digests
from gllm.engine.policies import ceil_div
from gllm.engine.sequence import NEVER, Sequence, SequenceStatus
from gllm.engine.time_model import chunk_pairs


class WaitingQueue:
    """Sequences by rank, with the sum of their waiting tokens. Operations are O(1) in its length.

    There is a bucket in order of arrival for each priority, and another for its late sequences. Iteration goes through
    the buckets one by one.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, bool], OrderedDict[Sequence, float]] = {}
        """(priority, late) -> sequence -> what it adds to `pairs`."""
        self._keys: list[tuple[int, bool]] = []
        self._length = 0
        self.tokens = 0
        """Sum of `queued_tokens`."""
        self.pairs = 0.0
        """Sum of the contexts of these tokens: the number of pairs of tokens in their attention."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for key in self._keys:
            yield from self._buckets[key]

    def peek(self) -> Sequence | None:
        heads = [next(iter(self._buckets[key])) for key in self._keys[:2]]
        return min(heads, key=lambda seq: seq.rank) if heads else None

    def push(self, seq: Sequence, *, front: bool = False) -> None:
        """Add a sequence at the back of its priority, or at the front: a preempted one arrived before the others."""
        key = (seq.priority, seq.late)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = OrderedDict()
            self._keys.insert(bisect_left(self._keys, key), key)
        bucket[seq] = pairs = _pairs(seq)
        if front:
            bucket.move_to_end(seq, last=False)
        self._length += 1
        self.tokens += seq.queued_tokens
        self.pairs += pairs

    def remove(self, seq: Sequence) -> None:
        key = (seq.priority, seq.late)
        bucket = self._buckets[key]
        self.pairs -= bucket.pop(seq)
        if not bucket:
            del self._buckets[key]
            del self._keys[bisect_left(self._keys, key)]
        self._length -= 1
        self.tokens -= seq.queued_tokens
        if not self._length:
            self.pairs = 0.0  # Remove what rounding left of an empty sum.

    def revise(self, seq: Sequence, queued_tokens: int) -> None:
        """Change the number of waiting tokens of a sequence in the queue."""
        self.tokens += queued_tokens - seq.queued_tokens
        seq.queued_tokens = queued_tokens
        bucket = self._buckets[seq.priority, seq.late]
        self.pairs -= bucket[seq]
        bucket[seq] = pairs = _pairs(seq)
        self.pairs += pairs

    def estimate_hits(self, seq: Sequence, pool: PagePool) -> None:
        """Update the waiting tokens of a sequence in the queue from the prefix cache."""
        seq.hit_pages = pool.count_hits(seq.digests, seq.hit_pages, seq.most_hits(pool.page_size))
        queued = len(seq.tokens) - seq.hit_pages * pool.page_size
        if queued != seq.queued_tokens:
            self.revise(seq, queued)


def _pairs(seq: Sequence) -> float:
    return chunk_pairs(len(seq.tokens) - seq.queued_tokens, seq.queued_tokens)


class RunningSet:
    """The sequences with a slot: their pages, their state, and the counts that policies read.

    A decode is ready while its last step is on the last stage, or has a result. Its last token may still be unknown.
    """

    def __init__(self, pool: PagePool, *, max_num_seqs: int) -> None:
        self.pool = pool
        self.members: dict[Sequence, None] = {}
        self.prefilling: dict[Sequence, None] = {}
        self.ready: dict[Sequence, None] = {}
        """Decodes that may be scheduled, by waiting time, the longest first."""
        self.num_decoding = 0
        self.decode_context = 0
        """Tokens in the KV cache of all decodes."""
        self.free_slots = list(range(max_num_seqs - 1, -1, -1))
        self.freed: list[int] = []
        """Slots that the next step tells the workers to free."""

    def has_room(self, seq: Sequence, hits: list[int]) -> bool:
        """Whether there are pages for all tokens of a waiting sequence and for all unfinished prefills.

        So prefills never wait for each other's pages: without decodes, the pages that they still need are free. For a
        preempted sequence each decode must also have one free page; otherwise it would soon be preempted again.
        """
        needed = ceil_div(len(seq.tokens), self.pool.page_size) - len(hits) + self.pool.num_unheld(hits)
        reserve = self.pages_owed() + (self.num_decoding if seq.num_preemptions else 0)
        return needed + reserve <= self.pool.num_free

    def place(self, seq: Sequence, hits: list[int]) -> None:
        """Give a waiting sequence a slot and the cached pages of its leading tokens."""
        pool = self.pool
        pool.acquire(hits)
        seq.slot = self.free_slots.pop()
        seq.pages = hits
        seq.capacity = seq.num_scheduled = len(hits) * pool.page_size
        seq.prefill_end = len(seq.tokens)
        seq.register_at = seq.capacity + pool.page_size if pool.prefix_caching else NEVER
        seq.status = SequenceStatus.PREFILLING
        self.members[seq] = None
        self.prefilling[seq] = None

    def add_pages(self, seq: Sequence, count: int) -> list[int]:
        """Append new pages to the block table; the caller has checked that enough are free."""
        pages = self.pool.allocate(count)
        seq.pages += pages
        seq.capacity += count * self.pool.page_size
        return pages

    def end_prefill(self, seq: Sequence) -> None:
        """Record that the last chunk is scheduled: the sequence decodes, or has no more tokens to schedule."""
        del self.prefilling[seq]
        if seq.max_length <= seq.prefill_end + 1:
            seq.status = SequenceStatus.DRAINING
            return
        seq.status = SequenceStatus.DECODING
        self.num_decoding += 1
        self.decode_context += seq.num_scheduled

    def make_ready(self, sampled: list[Sequence], step: int) -> None:
        """Record that a step with these sampled rows has reached the last stage: their next step may be scheduled."""
        decoding, ready = SequenceStatus.DECODING, self.ready
        for seq in sampled:
            if seq.status is decoding and seq.last_step == step:  # otherwise it was preempted meanwhile
                ready[seq] = None

    def end_decode(self, seq: Sequence) -> None:
        """Record that the decode's last token is scheduled."""
        seq.status = SequenceStatus.DRAINING
        self.num_decoding -= 1
        self.decode_context -= seq.num_scheduled
        self.ready.pop(seq, None)

    def vacate(self, seq: Sequence) -> None:
        """Take slot and pages back at once: later steps run after those in flight that still use them."""
        if seq.status is SequenceStatus.PREFILLING:
            del self.prefilling[seq]
        elif seq.status is SequenceStatus.DECODING:
            self.end_decode(seq)
        del self.members[seq]
        self.pool.release(seq.pages)
        self.free_slots.append(seq.slot)
        self.freed.append(seq.slot)
        seq.slot = -1
        seq.pages = []
        seq.capacity = seq.num_scheduled = 0
        seq.register_at = NEVER

    def last_in_order(self) -> Sequence:
        """Return the sequence to preempt: the lowest priority, then the latest arrival."""
        return max(self.members, key=lambda seq: seq.rank)

    def pages_owed(self) -> int:
        """Return the number of pages that unfinished prefills still need for their known tokens."""
        page_size = self.pool.page_size
        return sum(ceil_div(seq.prefill_end, page_size) - len(seq.pages) for seq in self.prefilling)

    def register_full_pages(self, seq: Sequence) -> None:
        """Put pages that are full of known, scheduled tokens into the prefix cache."""
        pool = self.pool
        page_size = pool.page_size
        extend_digests(seq.digests, seq.root, seq.tokens, page_size)
        full = min(seq.num_scheduled, len(seq.tokens))
        while seq.register_at <= full:
            page = seq.register_at // page_size - 1
            pool.register(seq.pages[page], seq.digests[page])
            seq.register_at += page_size
