"""All-reduce in one kernel, which writes into memory of the other ranks' GPUs and reads what they wrote.

A rank has parts of its memory for values from the others. A place is empty while it holds minus zero, so a value
announces itself: there are no flags, and the order of writes does not matter (TensorRT-LLM calls this a Lamport
buffer). A reader empties what it has read. Calls use the two halves of the memory in turn, so a rank writes into a half
again two calls later. By then it has the result of the call in between. All ranks contributed to that result, so all
have begun that call, and had emptied the half in the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
def _memory(addresses, rank):
    return tl.multiple_of(tl.load(addresses + rank).to(tl.pointer_type(tl.int16)), 16)


@triton.jit
def _to_send(values):
    bits = values.to(tl.int16, bitcast=True)
    return tl.where(bits == -32768, 0, bits).to(tl.int16)


@triton.jit
def _take(source, mask, BLOCK: tl.constexpr):
    """Wait until all places are filled, empty them, and return what they held."""
    bits = tl.load(source, mask=mask, other=0, volatile=True)
    while tl.max((bits == -32768).to(tl.int32), axis=0) != 0:
        bits = tl.load(source, mask=mask, other=0, volatile=True)
    tl.store(source, tl.full((BLOCK,), -32768, tl.int16), mask=mask)
    return bits


@triton.jit
def _sum(x, parts, part, where, mask, RANK: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr):
    """Add this rank's x[where] and the others' values, each `part` after the one before, in the order of ranks."""
    total = tl.zeros((BLOCK,), tl.float32)
    for rank in tl.static_range(RANKS):
        if rank == RANK:
            value = tl.load(x + where, mask=mask, other=0.0)
        else:
            value = _take(parts + rank * part, mask, BLOCK).to(x.dtype.element_ty, bitcast=True)
        total += value.to(tl.float32)
    return total.to(x.dtype.element_ty)


@triton.jit
def _end(state):
    """The program that ends last switches the halves for the next call. state: [the half, the ended programs] int32."""
    tl.debug_barrier()
    if tl.atomic_add(state + 1, 1) == tl.num_programs(0) - 1:
        tl.store(state + 1, 0)
        tl.store(state, tl.load(state) ^ 1)


@triton.jit
def _one_shot(x, addresses, state, capacity, n, RANK: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr):
    """Each rank sends all values to all, and adds all. Memory: [2, RANKS, capacity], by the sender's rank."""
    half = tl.load(state).to(tl.int64) * RANKS * capacity
    first = tl.program_id(0) * BLOCK
    stride = tl.num_programs(0) * BLOCK
    for start in range(first, n, stride):
        where = start + tl.arange(0, BLOCK)
        bits = _to_send(tl.load(x + where, mask=where < n, other=0.0))
        for turn in tl.static_range(1, RANKS):
            to = _memory(addresses, (RANK + turn) % RANKS) + half
            tl.store(to + RANK * capacity + where, bits, mask=where < n)
    mine = _memory(addresses, RANK) + half
    for start in range(first, n, stride):
        where = start + tl.arange(0, BLOCK)
        total = _sum(x, mine + where, capacity, where, where < n, RANK, RANKS, BLOCK)
        tl.store(x + where, total, mask=where < n)
    _end(state)


@triton.jit
def _two_shot(x, addresses, state, capacity, n, RANK: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr):
    """Of RANKS blocks, rank r adds block r and sends the sum to all. Memory: [2, values to add and sums, capacity]."""
    half = tl.load(state).to(tl.int64) * 2 * capacity
    mine = _memory(addresses, RANK) + half
    GROUP: tl.constexpr = RANKS * BLOCK
    first = tl.program_id(0) * GROUP
    stride = tl.num_programs(0) * GROUP
    for group in range(first, n, stride):
        for turn in tl.static_range(1, RANKS):
            owner = (RANK + turn) % RANKS
            where = group + owner * BLOCK + tl.arange(0, BLOCK)
            bits = _to_send(tl.load(x + where, mask=where < n, other=0.0))
            to = _memory(addresses, owner) + half + group + RANK * BLOCK
            tl.store(to + tl.arange(0, BLOCK), bits, mask=where < n)
    for group in range(first, n, stride):
        where = group + RANK * BLOCK + tl.arange(0, BLOCK)
        bits = _to_send(_sum(x, mine + group + tl.arange(0, BLOCK), BLOCK, where, where < n, RANK, RANKS, BLOCK))
        tl.store(x + where, bits.to(x.dtype.element_ty, bitcast=True), mask=where < n)
        for turn in tl.static_range(1, RANKS):
            to = _memory(addresses, (RANK + turn) % RANKS) + half + capacity
            tl.store(to + where, bits, mask=where < n)
    for group in range(first, n, stride):
        for turn in tl.static_range(1, RANKS):
            where = group + (RANK + turn) % RANKS * BLOCK + tl.arange(0, BLOCK)
            bits = _take(mine + capacity + where, where < n, BLOCK)
            tl.store(x + where, bits.to(x.dtype.element_ty, bitcast=True), mask=where < n)
    _end(state)


class _PeerAllReduce:
    """All-reduces in memory that all ranks have mapped, filled with EMPTY. All ranks call it in the same order.

    It can be captured in CUDA graphs: which half comes next is on the device.
    """

    kernel: Any
    whole_groups: bool
    """Whether a program handles a block of each rank at a time."""

    def __init__(self, addresses: Sequence[int], rank: int, capacity: int, device: torch.device) -> None:
        """addresses: this process's addresses of each rank's memory; capacity: the maximum number of values."""
        self.capacity = capacity
        self._rank, self._ranks = rank, len(addresses)
        self._room = _room(self._ranks, capacity)
        self._step = _BLOCK * (self._ranks if self.whole_groups else 1)
        self._addresses = torch.tensor(addresses, dtype=torch.int64, device=device)
        self._state = torch.zeros(2, dtype=torch.int32, device=device)
        self._launch = Launcher(self.kernel)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Overwrite x with its sum over ranks, and return it. x: contiguous, 16-bit floats, at most `capacity`."""
        n = x.numel()
        if n:
            self._launch(
                (x.dtype, x.data_ptr() % 16 == 0, n % 16 == 0, n == 1),
                (min(triton.cdiv(n, self._step), _MOST_PROGRAMS), 1, 1),
                (x, self._addresses, self._state, self._room, n),
                {"RANK": self._rank, "RANKS": self._ranks, "BLOCK": _BLOCK},
                num_warps=_WARPS,
            )
        return x


class OneShotAllReduce(_PeerAllReduce):
    """One exchange: the faster one for small tensors."""

    kernel = _one_shot
    whole_groups = False

    @staticmethod
    def memory_bytes(ranks: int, capacity: int) -> int:
        """Return the bytes that each rank must share."""
        return 2 * ranks * _room(ranks, capacity) * 2


class TwoShotAllReduce(_PeerAllReduce):
    """A reduce-scatter and an all-gather, each of 1 / ranks of the values with each rank: faster for large tensors."""

    kernel = _two_shot
    whole_groups = True

    @staticmethod
    def memory_bytes(ranks: int, capacity: int) -> int:
        """Return the bytes that each rank must share."""
        return 2 * 2 * _room(ranks, capacity) * 2


def _room(ranks: int, capacity: int) -> int:
    """Return the values for which a part has room: whole groups of a block for each rank."""
    return -(-capacity // (ranks * _BLOCK)) * ranks * _BLOCK
