"""Deltas of the scheduler become the arrays of a forward pass."""

from __future__ import annotations

import numpy as np

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import NewSequence, SchedulerOutput
from gllm.worker.slots import SlotTable
from gllm.worker.step_batch import build_batch

PARAMS = SamplingParams(seed=0)


def _plan(step: int, rows: list[tuple[int, int, bool]], **deltas: list) -> SchedulerOutput:
    slots, tokens, samples = zip(*rows, strict=True)
    fields = {"pages": [], "new": [], "freed": []} | deltas
    return SchedulerOutput(
        epoch=0, step=step, slots=list(slots), num_tokens=list(tokens), samples=list(samples), **fields
    )


def test_chunked_prompt_then_decode() -> None:
    table = SlotTable(max_num_seqs=4, max_model_len=32, page_size=4)
    first = _plan(
        0,
        [(2, 3, False)],
        new=[
            NewSequence(
                slot=2,
                token_ids=[10, 11, 12, 13, 14],
                num_prompt_tokens=5,
                num_computed_tokens=0,
                pages=[7, 3],
                sampling=PARAMS,
            )
        ],
    )
    table.apply(first)
    batch = build_batch(first, table)
    assert batch.token_ids.tolist() == [10, 11, 12]
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.attention.kv_lens.tolist() == [3]
    assert batch.attention.block_tables[0, 0] == 7
    assert batch.sample_rows.tolist() == []

    second = _plan(1, [(2, 2, True)])
    table.apply(second)
    batch = build_batch(second, table)
    assert batch.token_ids.tolist() == [13, 14]
    assert batch.positions.tolist() == [3, 4]
    assert batch.sample_tokens.tolist() == [1]
    assert batch.device_tokens.tolist() == []

    third = _plan(2, [(2, 1, True)])
    table.apply(third)
    batch = build_batch(third, table)
    assert batch.device_tokens.tolist() == [0]
    assert batch.device_slots.tolist() == [2]
    assert batch.positions.tolist() == [5]
    assert batch.attention.block_tables.tolist() == [[7, 3]]


def test_mixed_batch_keeps_rows_apart() -> None:
    table = SlotTable(max_num_seqs=4, max_model_len=32, page_size=4)
    setup = _plan(
        0,
        [(0, 2, True)],
        new=[
            NewSequence(
                slot=0, token_ids=[1, 2], num_prompt_tokens=2, num_computed_tokens=0, pages=[0], sampling=PARAMS
            )
        ],
    )
    table.apply(setup)
    build_batch(setup, table)
    mixed = _plan(
        1,
        [(0, 1, True), (3, 5, True), (1, 2, False)],
        pages=[(0, [9])],
        new=[
            NewSequence(
                slot=3,
                token_ids=[20, 21, 22, 23, 24, 25, 26, 27, 28],
                num_prompt_tokens=9,
                num_computed_tokens=4,
                pages=[5, 6, 8],
                sampling=PARAMS,
            ),
            NewSequence(
                slot=1, token_ids=[30, 31, 32], num_prompt_tokens=3, num_computed_tokens=0, pages=[4], sampling=PARAMS
            ),
        ],
    )
    table.apply(mixed)
    batch = build_batch(mixed, table)
    assert batch.attention.num_decode_rows == 1
    assert batch.token_ids.tolist() == [0, 24, 25, 26, 27, 28, 30, 31]
    assert batch.positions.tolist() == [2, 4, 5, 6, 7, 8, 0, 1]
    assert batch.attention.kv_lens.tolist() == [3, 9, 2]
    assert batch.attention.block_tables[0, :2].tolist() == [0, 9]
    assert batch.attention.block_tables[1].tolist() == [5, 6, 8]
    assert batch.sample_rows.tolist() == [0, 1]
    assert batch.sample_tokens.tolist() == [0, 5]


def test_generated_tokens_of_a_resumed_sequence_are_known() -> None:
    """After a preemption the registration carries prompt and output; the last of them is computed from the host."""
    table = SlotTable(max_num_seqs=2, max_model_len=16, page_size=4)
    plan = _plan(
        0,
        [(0, 5, True)],
        new=[
            NewSequence(
                slot=0,
                token_ids=[1, 2, 3, 40, 41],
                num_prompt_tokens=3,
                num_computed_tokens=0,
                pages=[0, 1],
                sampling=PARAMS,
            )
        ],
    )
    table.apply(plan)
    batch = build_batch(plan, table)
    assert batch.token_ids.tolist() == [1, 2, 3, 40, 41]
    assert batch.device_tokens.tolist() == []


def test_a_reused_slot_keeps_nothing_of_its_last_sequence() -> None:
    table = SlotTable(max_num_seqs=1, max_model_len=16, page_size=4)
    plan = _plan(
        0,
        [(0, 6, True)],
        new=[
            NewSequence(
                slot=0,
                token_ids=list(range(6)),
                num_prompt_tokens=6,
                num_computed_tokens=0,
                pages=[1, 2],
                sampling=PARAMS,
            )
        ],
    )
    table.apply(plan)
    build_batch(plan, table)
    again = _plan(
        1,
        [(0, 2, True)],
        freed=[0],
        new=[
            NewSequence(
                slot=0, token_ids=[8, 9], num_prompt_tokens=2, num_computed_tokens=0, pages=[3], sampling=PARAMS
            )
        ],
    )
    table.apply(again)
    batch = build_batch(again, table)
    assert batch.token_ids.tolist() == [8, 9]
    assert batch.attention.block_tables.tolist() == [[3]]
    assert np.array_equal(batch.positions, [0, 1])
