"""The sequences that hold a slot: their pages, their slots, and which of them may be scheduled."""

from __future__ import annotations

from gllm.engine.kv_pages import PagePool, extend_digests
from gllm.engine.policies import ceil_div
from gllm.engine.sequence import NEVER, Sequence, SequenceStatus


class RunningSet:
    """Moves sequences between prefill, decode and out, and keeps the counts a policy reads.

    With one stage a decode stays ready while its last token is still on the device (the overlap); with
    more, the token must come back first, so that a sequence is in one decode micro-batch at most.
    """

    def __init__(self, pool: PagePool, *, max_num_seqs: int, overlap: bool) -> None:
        self.pool = pool
        self.overlap = overlap
        self.members: dict[Sequence, None] = {}
        self.prefilling: dict[Sequence, None] = {}
        self.ready: dict[Sequence, None] = {}
        """Decodes that may be scheduled now, the longest unscheduled first."""
        self.num_decoding = 0
        self.decode_context = 0
        """Tokens in the cache of all decodes."""
        self.free_slots = list(range(max_num_seqs - 1, -1, -1))
        self.freed: list[int] = []
        """Slots that the workers must be told to free in the next plan."""

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
        """Append new pages to the block table; the caller has checked that they are free."""
        pages = self.pool.allocate(count)
        seq.pages += pages
        seq.capacity += count * self.pool.page_size
        return pages

    def end_prefill(self, seq: Sequence) -> None:
        """The last chunk is scheduled: the sequence decodes, or has nothing left to schedule."""
        del self.prefilling[seq]
        if seq.max_length <= seq.prefill_end + 1:
            seq.status = SequenceStatus.DRAINING
            return
        seq.status = SequenceStatus.DECODING
        self.num_decoding += 1
        self.decode_context += seq.num_scheduled
        if self.overlap:
            self.ready[seq] = None

    def end_decode(self, seq: Sequence) -> None:
        """The decode's last token is scheduled."""
        seq.status = SequenceStatus.DRAINING
        self.num_decoding -= 1
        self.decode_context -= seq.num_scheduled
        self.ready.pop(seq, None)

    def vacate(self, seq: Sequence) -> None:
        """Take slot and pages back, at once: later plans run after those in flight that still use them."""
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
        """The one to preempt: lowest priority, then latest arrival."""
        return max(self.members, key=lambda seq: seq.rank)

    def pages_owed(self) -> int:
        """Pages that unfinished prefills still need for the tokens they know."""
        page_size = self.pool.page_size
        return sum(ceil_div(seq.prefill_end, page_size) - len(seq.pages) for seq in self.prefilling)

    def register_full_pages(self, seq: Sequence) -> None:
        """Put the pages that became full of known, scheduled tokens into the prefix cache."""
        pool = self.pool
        page_size = pool.page_size
        extend_digests(seq.digests, seq.root, seq.tokens, page_size)
        full = min(seq.num_scheduled, len(seq.tokens))
        while seq.register_at <= full:
            page = seq.register_at // page_size - 1
            pool.register(seq.pages[page], seq.digests[page])
            seq.register_at += page_size
