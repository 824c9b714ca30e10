"""The worker's state of every live sequence, indexed by the slot that the engine assigned.

A `SchedulerOutput` is a delta to this state. All per-step data are NumPy arrays over slots, so that a micro-batch is
built by indexing, not by a loop over sequences.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gllm.wire.messages import NewSequence, SchedulerOutput

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class SlotTable:
    """Block tables, known tokens and progress of `max_num_seqs` slots."""

    def __init__(self, max_num_seqs: int, max_model_len: int, page_size: int) -> None:
        self.page_size = page_size
        max_pages = -(-max_model_len // page_size)
        # The zeros of a large array take no memory until they are written.
        self.block_tables: Int32 = np.zeros((max_num_seqs, max_pages), np.int32)
        self.num_pages: Int32 = np.zeros(max_num_seqs, np.int32)
        self.num_known: Int32 = np.zeros(max_num_seqs, np.int32)
        """Number of tokens whose ids came with the registration; later tokens are sampled here."""
        self.num_prompt: Int32 = np.zeros(max_num_seqs, np.int32)
        self.num_computed: Int32 = np.zeros(max_num_seqs, np.int32)
        """Number of tokens whose KV is written, counting steps that are still running."""
        self.rope_start: Int32 = np.zeros(max_num_seqs, np.int32)
        """See `NewSequence`."""
        self._tokens: list[Int64 | None] = [None] * max_num_seqs

    def apply(self, scheduled: SchedulerOutput) -> None:
        """Free slots, register sequences and append pages, before the rows of the step run."""
        for slot in scheduled.freed:
            self._tokens[slot] = None
        for sequence in scheduled.new:
            self._register(sequence)
        for slot, pages in scheduled.pages:
            self._append_pages(slot, pages)

    def _register(self, sequence: NewSequence) -> None:
        slot = sequence.slot
        self._tokens[slot] = np.asarray(sequence.token_ids, np.int64)
        self.num_known[slot] = len(sequence.token_ids)
        self.num_prompt[slot] = sequence.num_prompt_tokens
        self.num_computed[slot] = sequence.num_computed_tokens
        self.num_pages[slot] = 0
        self.rope_start[slot] = sequence.rope_start
        self._append_pages(slot, sequence.pages)

    def _append_pages(self, slot: int, pages: list[int]) -> None:
        start = self.num_pages[slot]
        self.block_tables[slot, start : start + len(pages)] = pages
        self.num_pages[slot] = start + len(pages)

    def tokens(self, slot: int) -> Int64:
        """Return the known token ids of a registered slot: [num_known]."""
        tokens = self._tokens[slot]
        assert tokens is not None, f"slot {slot} is not registered"
        return tokens
