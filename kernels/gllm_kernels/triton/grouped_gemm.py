"""Matrix products of grouped rows, with one matrix for each group, and the operations fused with them.

A program computes a tile of one block's rows. Programs are numbered so that those of `BAND` blocks come together, tile
of columns after tile of columns: their rows stay in L2 while a tile of weights is read once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from gllm_kernels.triton.group import Groups
from gllm_kernels.triton.launch import Launcher


@dataclass(frozen=True, slots=True)
class Tile:
    columns: int
    depth: int
    """Elements of the inner dimension that a step loads."""
    warps: int
    stages: int
    """Steps whose loads are in progress at once."""
    band: int = 8
    described: bool = False
    """Whether Hopper's copy engine loads the weights, through a tensor descriptor: for tall blocks."""


@triton.jit
def _locate(blocks, num_blocks, max_blocks, num_tiles, BAND: tl.constexpr):
    """This program's (block, tile of columns); the block may not exist."""
    program = tl.program_id(0)
    band = program // (BAND * num_tiles)
    height = tl.minimum(max_blocks - band * BAND, BAND)
    within = program - band * BAND * num_tiles
    return band * BAND + within % height, within // height


@triton.jit(do_not_specialize=["max_blocks", "num_tiles", "k"])
def _gate_up(
    x, x_stride, weight, out, order, blocks, num_blocks, max_blocks, num_tiles, hidden, inner, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr,
    EVEN: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    block, tile = _locate(blocks, num_blocks, max_blocks, num_tiles, BAND)
    if block >= tl.load(num_blocks):
        return
    expert = tl.load(blocks + block)
    row = tl.load(blocks + max_blocks + block) + tl.arange(0, ROWS)
    valid = row < tl.load(blocks + 2 * max_blocks + block)
    token = tl.load(order + row, mask=valid, other=0) // k
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    there = column < inner
    depth = tl.arange(0, DEPTH)
    rows = x + token.to(tl.int64)[:, None] * x_stride + depth[None, :]
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = expert * 2 * inner + tile * COLUMNS
    if not DESCRIBED:
        gates = weight + (first + tl.arange(0, COLUMNS)).to(tl.int64)[None, :] * hidden + depth[:, None]
        ups = gates + inner.to(tl.int64) * hidden
    for start in range(0, hidden, DEPTH):
        if DESCRIBED:
            a = tl.load(rows, mask=valid[:, None], other=0.0)
            g = weight.load([first, start]).T
            u = weight.load([first + inner, start]).T
        elif EVEN:
            a = tl.load(rows, mask=valid[:, None], other=0.0)
            g = tl.load(gates)
            u = tl.load(ups)
        else:
            inside = start + depth < hidden
            a = tl.load(rows, mask=valid[:, None] & inside[None, :], other=0.0)
            g = tl.load(gates, mask=inside[:, None] & there[None, :], other=0.0)
            u = tl.load(ups, mask=inside[:, None] & there[None, :], other=0.0)
        gate = tl.dot(a, g, gate)
        up = tl.dot(a, u, up)
        rows += DEPTH
        if not DESCRIBED:
            gates += DEPTH
            ups += DEPTH
    result = gate / (1.0 + tl.exp(-gate)) * up
    where = out + row.to(tl.int64)[:, None] * inner + column[None, :]
    tl.store(where, result.to(out.dtype.element_ty), mask=valid[:, None] & there[None, :])


@triton.jit(do_not_specialize=["max_blocks", "num_tiles"])
def _down(
    x, weight, out, order, routing, blocks, num_blocks, max_blocks, num_tiles, inner, hidden,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr, EVEN: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    block, tile = _locate(blocks, num_blocks, max_blocks, num_tiles, BAND)
    if block >= tl.load(num_blocks):
        return
    expert = tl.load(blocks + block)
    row = tl.load(blocks + max_blocks + block) + tl.arange(0, ROWS)
    valid = row < tl.load(blocks + 2 * max_blocks + block)
    pair = tl.load(order + row, mask=valid, other=0)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    there = column < hidden
    depth = tl.arange(0, DEPTH)
    rows = x + row.to(tl.int64)[:, None] * inner + depth[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = expert * hidden + tile * COLUMNS
    if not DESCRIBED:
        matrix = weight + (first + tl.arange(0, COLUMNS)).to(tl.int64)[None, :] * inner + depth[:, None]
    for start in range(0, inner, DEPTH):
        if DESCRIBED:
            a = tl.load(rows, mask=valid[:, None], other=0.0)
            w = weight.load([first, start]).T
        elif EVEN:
            a = tl.load(rows, mask=valid[:, None], other=0.0)
            w = tl.load(matrix)
        else:
            inside = start + depth < inner
            a = tl.load(rows, mask=valid[:, None] & inside[None, :], other=0.0)
            w = tl.load(matrix, mask=inside[:, None] & there[None, :], other=0.0)
        total = tl.dot(a, w, total)
        rows += DEPTH
        if not DESCRIBED:
            matrix += DEPTH
    total = total * tl.load(routing + pair, mask=valid, other=0.0)[:, None]
    where = out + pair.to(tl.int64)[:, None] * hidden + column[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=valid[:, None] & there[None, :])


@triton.jit
def _add_pairs(parts, chosen, out, hidden, K: tl.constexpr, WIDTH: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = column < hidden
    total = tl.zeros((WIDTH,), tl.float32)
    for nth in tl.static_range(K):
        pair = token * K + nth
        # Nothing was written for a pair without an expert.
        written = there & (tl.load(chosen + pair) >= 0)
        total += tl.load(parts + pair * hidden + column, mask=written, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + column, total.to(out.dtype.element_ty), mask=there)


_launch_gate_up, _launch_down, _launch_add = Launcher(_gate_up), Launcher(_down), Launcher(_add_pairs)


@cache
def _has_copy_engine() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] >= 9


def _constants(rows: int, tile: Tile, depth: int, columns: int) -> dict[str, Any]:
    """The constants of a product over `depth` into `columns`."""
    even = depth % tile.depth == 0 and columns % tile.columns == 0
    return {
        "ROWS": rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "BAND": tile.band,
        "EVEN": even,
        "DESCRIBED": even and tile.described and _has_copy_engine(),
    }


def _weight(weight: torch.Tensor, tile: Tile, described: bool) -> Any:
    """The kernel's argument for matrices [experts, out, in]: the tensor, or its descriptor in boxes of a tile."""
    if not described:
        return weight
    return TensorDescriptor.from_tensor(weight.view(-1, weight.shape[-1]), [tile.columns, tile.depth])


def _blocks(groups: Groups) -> tuple[torch.Tensor, torch.Tensor, int]:
    return groups.blocks, groups.num_blocks, groups.max_blocks


def gate_up(x: torch.Tensor, weight: torch.Tensor, groups: Groups, k: int, tile: Tile) -> torch.Tensor:
    """x: [n, hidden]; weight: [experts, 2 * inner, hidden], gate first.

    Returns silu(gate) * up of each grouped row: [pairs, inner] in the order of `groups`.
    """
    hidden, inner, stride = x.shape[1], weight.shape[1] // 2, x.stride(0)
    out = torch.empty(len(groups.order), inner, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(inner, tile.columns)
    constants = _constants(groups.block_rows, tile, hidden, inner)
    matrices = _weight(weight, tile, constants["DESCRIBED"])
    _launch_gate_up(
        (x.dtype, hidden, inner, stride, x.data_ptr() % 16 == 0, groups.block_rows, tile),
        (groups.max_blocks * tiles, 1, 1),
        (x, stride, matrices, out, groups.order, *_blocks(groups), tiles, hidden, inner, k),
        constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def down(x: torch.Tensor, weight: torch.Tensor, routing: torch.Tensor, groups: Groups, tile: Tile) -> torch.Tensor:
    """x: [pairs, inner], as `gate_up` returns it; weight: [experts, hidden, inner]; routing: [n, k] float32.

    Returns weighted results [pairs, hidden] in the order of pairs. Rows of pairs without an expert are not written.
    """
    pairs, inner = x.shape
    hidden = weight.shape[1]
    out = torch.empty(pairs, hidden, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(hidden, tile.columns)
    constants = _constants(groups.block_rows, tile, inner, hidden)
    matrices = _weight(weight, tile, constants["DESCRIBED"])
    _launch_down(
        (x.dtype, hidden, inner, routing.data_ptr() % 16 == 0, groups.block_rows, tile),
        (groups.max_blocks * tiles, 1, 1),
        (x, matrices, out, groups.order, routing, *_blocks(groups), tiles, inner, hidden),
        constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def add_pairs(parts: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """parts: [n * k, hidden]; chosen: [n, k]. Returns the sum of each token's k rows, in order: [n, hidden]."""
    n, k = chosen.shape
    hidden = parts.shape[1]
    out = torch.empty(n, hidden, dtype=parts.dtype, device=parts.device)
    width = min(1024, triton.next_power_of_2(hidden))
    _launch_add(
        (parts.dtype, hidden, k, chosen.data_ptr() % 16 == 0),
        (n, triton.cdiv(hidden, width), 1),
        (parts, chosen, out, hidden),
        {"K": k, "WIDTH": width},
        num_warps=4,
    )
    return out
