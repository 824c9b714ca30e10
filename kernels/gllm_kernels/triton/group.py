"""Groups (token, expert) pairs by expert and cuts the groups into blocks of rows, without the host.

Pair p is the expert p % k of token p // k. Only the device knows the number of blocks. The launch grid is the largest
possible number, and the surplus programs end at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from gllm_kernels.triton.launch import Launcher

_ONE_PROGRAM = (64, 512, 2048)
"""Numbers of pairs for which one program does everything: those of decode steps, where launches dominate."""
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Groups:
    order: torch.Tensor
    """[pairs] int32: pairs by expert; within an expert in any order, since no result depends on it."""
    blocks: torch.Tensor
    """[3, max_blocks] int32: a block's expert, its first row in `order`, and the row after its expert's last."""
    num_blocks: torch.Tensor
    """[1] int32."""
    max_blocks: int
    block_rows: int


@triton.jit
def _cut(count, first, expert, blocks, num_blocks, max_blocks, ROWS: tl.constexpr):
    """Write the blocks of all experts: count and first are vectors over experts."""
    cut = (count + ROWS - 1) // ROWS
    at = tl.cumsum(cut, axis=0) - cut
    for step in range(tl.max(cut, axis=0)):
        here = step < cut
        tl.store(blocks + at + step, expert, mask=here)
        tl.store(blocks + max_blocks + at + step, first + step * ROWS, mask=here)
        tl.store(blocks + 2 * max_blocks + at + step, first + count, mask=here)
    tl.store(num_blocks, tl.sum(cut, axis=0))


@triton.jit(do_not_specialize=["pairs", "max_blocks"])
def _group_all(
    chosen,
    counts,
    firsts,
    order,
    blocks,
    num_blocks,
    pairs,
    max_blocks,
    NUM: tl.constexpr,
    WIDTH: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program, whose barriers replace launches. Loads bypass L1, which atomics do not update."""
    expert = tl.arange(0, WIDTH)
    pair = tl.arange(0, PAIRS)
    mine = tl.load(chosen + pair, mask=pair < pairs, other=-1)
    tl.store(counts + expert, 0, mask=expert < NUM)
    tl.debug_barrier()
    index = tl.atomic_add(counts + mine, 1, mask=mine >= 0, sem="relaxed")
    tl.debug_barrier()
    count = tl.load(counts + expert, mask=expert < NUM, other=0, cache_modifier=".cg")
    first = tl.cumsum(count, axis=0) - count
    tl.store(firsts + expert, first, mask=expert < NUM)
    tl.debug_barrier()
    start = tl.load(firsts + mine, mask=mine >= 0, other=0, cache_modifier=".cg")
    tl.store(order + start + index, pair, mask=mine >= 0)
    _cut(count, first, expert, blocks, num_blocks, max_blocks, ROWS)


@triton.jit(do_not_specialize=["pairs"])
def _count(chosen, counts, indices, pairs, CHUNK: tl.constexpr):
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    mine = tl.load(chosen + pair, mask=pair < pairs, other=-1)
    index = tl.atomic_add(counts + mine, 1, mask=mine >= 0, sem="relaxed")
    tl.store(indices + pair, index, mask=pair < pairs)


@triton.jit(do_not_specialize=["pairs", "max_blocks"])
def _write_order(
    chosen,
    counts,
    indices,
    firsts,
    order,
    blocks,
    num_blocks,
    pairs,
    max_blocks,
    NUM: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
):
    expert = tl.arange(0, WIDTH)
    count = tl.load(counts + expert, mask=expert < NUM, other=0)
    first = tl.cumsum(count, axis=0) - count
    # Every program writes the same, and reads its own.
    tl.store(firsts + expert, first, mask=expert < NUM)
    tl.debug_barrier()
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    mine = tl.load(chosen + pair, mask=pair < pairs, other=-1)
    index = tl.load(indices + pair, mask=pair < pairs, other=0)
    start = tl.load(firsts + mine, mask=mine >= 0, other=0, cache_modifier=".cg")
    tl.store(order + start + index, pair, mask=mine >= 0)
    if tl.program_id(0) == 0:
        _cut(count, first, expert, blocks, num_blocks, max_blocks, ROWS)


_launch_all, _launch_count, _launch_write_order = Launcher(_group_all), Launcher(_count), Launcher(_write_order)


def most_blocks(pairs: int, num_experts: int, block_rows: int) -> int:
    """The largest number of blocks of `pairs` rows: as many experts as possible have one row more than full blocks."""
    used = min(pairs, num_experts)
    return used + (pairs - used) // block_rows


def group(chosen: torch.Tensor, num_experts: int, block_rows: int) -> Groups:
    """chosen: [n, k] int32, -1 for a pair without an expert, which is in no group."""
    pairs, device = chosen.numel(), chosen.device
    max_blocks = most_blocks(pairs, num_experts, block_rows)
    order = torch.empty(pairs, dtype=torch.int32, device=device)
    blocks = torch.empty(3, max_blocks, dtype=torch.int32, device=device)
    num_blocks = torch.empty(1, dtype=torch.int32, device=device)
    firsts = torch.empty(num_experts, dtype=torch.int32, device=device)
    constants = {"NUM": num_experts, "WIDTH": triton.next_power_of_2(num_experts)}
    aligned = chosen.data_ptr() % 16 == 0
    if pairs <= _ONE_PROGRAM[-1]:
        size = next(size for size in _ONE_PROGRAM if pairs <= size)
        _launch_all(
            (num_experts, size, block_rows, aligned),
            (1, 1, 1),
            (chosen, torch.empty_like(firsts), firsts, order, blocks, num_blocks, pairs, max_blocks),
            constants | {"PAIRS": size, "ROWS": block_rows},
            num_warps=4 if size <= 512 else 8,
        )
    else:
        counts, indices = torch.zeros_like(firsts), torch.empty_like(order)
        grid = (triton.cdiv(pairs, _CHUNK), 1, 1)
        _launch_count(aligned, grid, (chosen, counts, indices, pairs), {"CHUNK": _CHUNK})
        _launch_write_order(
            (num_experts, block_rows, aligned),
            grid,
            (chosen, counts, indices, firsts, order, blocks, num_blocks, pairs, max_blocks),
            constants | {"CHUNK": _CHUNK, "ROWS": block_rows},
        )
    return Groups(order, blocks, num_blocks, max_blocks, block_rows)
