"""Sums over ranks in one kernel: each rank writes its values into memory of every other, and adds what it gets.

A rank has one part of 16-bit values for each other rank. A part is empty while it holds minus zero, so a value
announces itself: there are no flags, and the order of writes does not matter (TensorRT-LLM calls this a Lamport
buffer). A reader empties what it has read. Two halves take turns. When a rank writes into a half again, it has every
value of the call between, so its peers have begun that call, and have emptied the half in the call before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from gllm_kernels.triton.launch import Launcher

EMPTY = -32768
"""The bits of minus zero, in bfloat16 and float16. A value that is minus zero is sent as zero."""
_BLOCK, _WARPS = 2048, 8
_MOST_PROGRAMS = 264
"""Two for each of an H100's multiprocessors: all of them run at once, since programs wait for each other."""


@triton.jit
def _part(parts, rank, half):
    """The address of a rank's parts in the current half."""
    return tl.multiple_of(tl.load(parts + rank).to(tl.pointer_type(tl.int16)), 16) + half


@triton.jit
def _one_shot(x, parts, state, capacity, n, RANK: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr):
    """parts: [RANKS] addresses of [2, RANKS, capacity]; state: [the half, the programs that have ended] int32."""
    half = tl.load(state).to(tl.int64) * RANKS * capacity
    offsets = tl.arange(0, BLOCK)
    first = tl.program_id(0) * BLOCK
    stride = tl.num_programs(0) * BLOCK
    for start in range(first, n, stride):
        where = start + offsets
        bits = tl.load(x + where, mask=where < n, other=0.0).to(tl.int16, bitcast=True)
        bits = tl.where(bits == -32768, 0, bits).to(tl.int16)
        for step in tl.static_range(1, RANKS):
            tl.store(_part(parts, (RANK + step) % RANKS, half) + RANK * capacity + where, bits, mask=where < n)
    mine = _part(parts, RANK, half)
    for start in range(first, n, stride):
        where = start + offsets
        total = tl.zeros((BLOCK,), tl.float32)
        for rank in tl.static_range(RANKS):  # the same order on all ranks, so that all get the same bits
            if rank == RANK:
                value = tl.load(x + where, mask=where < n, other=0.0)
            else:
                source = mine + rank * capacity + where
                bits = tl.load(source, mask=where < n, other=0, volatile=True)
                while tl.max((bits == -32768).to(tl.int32), axis=0) != 0:
                    bits = tl.load(source, mask=where < n, other=0, volatile=True)
                tl.store(source, tl.full((BLOCK,), -32768, tl.int16), mask=where < n)
                value = bits.to(x.dtype.element_ty, bitcast=True)
            total += value.to(tl.float32)
        tl.store(x + where, total.to(x.dtype.element_ty), mask=where < n)
    tl.debug_barrier()
    if tl.atomic_add(state + 1, 1) == tl.num_programs(0) - 1:  # the last program switches halves, for the next call
        tl.store(state + 1, 0)
        tl.store(state, tl.load(state) ^ 1)


def buffer_bytes(ranks: int, capacity: int) -> int:
    """Return the bytes that each rank must share for sums of at most `capacity` values."""
    return 2 * ranks * capacity * 2


class OneShotSum:
    """Sums in memory that all ranks have mapped, filled with EMPTY. All ranks call it in the same order.

    It can be captured in CUDA graphs: which half comes next is on the device.
    """

    def __init__(self, addresses: Sequence[int], rank: int, capacity: int, device: torch.device) -> None:
        """addresses: this process's addresses of each rank's memory, of `buffer_bytes`; capacity: a multiple of 16."""
        self.capacity = capacity
        self._rank, self._ranks = rank, len(addresses)
        self._parts = torch.tensor(addresses, dtype=torch.int64, device=device)
        self._state = torch.zeros(2, dtype=torch.int32, device=device)
        self._launch = Launcher(_one_shot)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Overwrite x with its sum over ranks, and return it. x: contiguous, 16-bit floats, at most `capacity`."""
        n = x.numel()
        if n:
            self._launch(
                (x.dtype, x.data_ptr() % 16 == 0, n % 16 == 0, n == 1),
                (min(triton.cdiv(n, _BLOCK), _MOST_PROGRAMS), 1, 1),
                (x, self._parts, self._state, self.capacity, n),
                {"RANK": self._rank, "RANKS": self._ranks, "BLOCK": _BLOCK},
                num_warps=_WARPS,
            )
        return x
