"""The arrays that one forward pass reads, built from a `SchedulerOutput`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gllm.layers.attention_backends.backend import AttentionBatch
from gllm.wire.messages import SchedulerOutput
from gllm.worker.slots import Int32, Int64, SlotTable


@dataclass(slots=True)
class StepBatch:
    """Host arrays of one micro-batch of `n` tokens in `rows` rows."""

    attention: AttentionBatch
    slots: Int32
    """[rows]"""
    starts: Int32
    """[rows] position of the row's first new token."""
    token_ids: Int64
    """[n] 0 where the token is still on the device."""
    positions: Int64
    """[n] rows of the rope table."""
    device_tokens: Int64
    """[d] indices among the n tokens: their ids are the tokens last sampled for `device_slots`."""
    device_slots: Int64
    """[d]"""
    sample_rows: Int64
    """[s] rows whose last token is followed by a sampled one."""
    sample_tokens: Int64
    """[s] index of that last token among the n."""


def build_batch(scheduled: SchedulerOutput, table: SlotTable) -> StepBatch:
    """Build the arrays of a step whose state changes were applied, and count its tokens as computed in `table`."""
    slots = np.asarray(scheduled.slots, np.int32)
    query_lens = np.asarray(scheduled.num_tokens, np.int32)
    starts = table.num_computed[slots]
    table.num_computed[slots] += query_lens
    kv_lens = starts + query_lens
    ends = np.cumsum(query_lens)
    firsts = ends - query_lens
    num_tokens = int(ends[-1]) if len(ends) else 0

    positions = np.arange(num_tokens, dtype=np.int64) + np.repeat(starts - firsts + table.rope_start[slots], query_lens)
    token_ids = np.zeros(num_tokens, np.int64)
    sampled = starts >= table.num_known[slots]
    for row in np.flatnonzero(~sampled):
        first = firsts[row]
        known = table.tokens(slots[row])[starts[row] : kv_lens[row]]
        token_ids[first : first + len(known)] = known
    sample_rows = np.flatnonzero(np.asarray(scheduled.samples, np.bool_))

    max_pages = -(-int(kv_lens.max(initial=0)) // table.page_size)
    attention = AttentionBatch(
        num_decode_rows=_leading_ones(query_lens),
        query_lens=query_lens,
        kv_lens=kv_lens,
        block_tables=table.block_tables[slots, :max_pages],
    )
    return StepBatch(
        attention=attention,
        slots=slots,
        starts=starts,
        token_ids=token_ids,
        positions=positions,
        device_tokens=firsts[sampled].astype(np.int64),
        device_slots=slots[sampled].astype(np.int64),
        sample_rows=sample_rows,
        sample_tokens=(ends[sample_rows] - 1).astype(np.int64),
    )


def _leading_ones(query_lens: Int32) -> int:
    """Return the number of one-token rows at the front. A last prefill chunk of one token counts, too."""
    longer = np.flatnonzero(query_lens != 1)
    return int(longer[0]) if len(longer) else len(query_lens)
