"""Matrix products of grouped rows, each group with a matrix of its own, and what is fused with them.

A program computes a tile of one block's rows. Programs are numbered so that those of `BAND` blocks come together, tile
of columns after tile of columns: their rows stay in L2 while a tile of weights is read once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from gllm_kernels.triton.group import Groups


@dataclass(frozen=True, slots=True)
class Tile:
    columns: int
    depth: int
    """Elements of the inner dimension that a step loads."""
    warps: int
    stages: int
    """Steps whose loads are under way at once."""
    band: int = 8


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
    EVEN: tl.constexpr,
):  # fmt: skip
    block, tile = _locate(blocks, num_blocks, max_blocks, num_tiles, BAND)
    if block >= tl.load(num_blocks):
        return
    expert = tl.load(blocks + block).to(tl.int64)
    row = tl.load(blocks + max_blocks + block) + tl.arange(0, ROWS)
    valid = row < tl.load(blocks + 2 * max_blocks + block)
    token = tl.load(order + row, mask=valid, other=0) // k
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    there = column < inner
    depth = tl.arange(0, DEPTH)
    rows = x + token.to(tl.int64)[:, None] * x_stride + depth[None, :]
    gates = weight + expert * 2 * inner * hidden + column.to(tl.int64)[None, :] * hidden + depth[:, None]
    ups = gates + inner.to(tl.int64) * hidden
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, hidden, DEPTH):
        if EVEN:
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
        gates += DEPTH
        ups += DEPTH
    result = gate / (1.0 + tl.exp(-gate)) * up
    where = out + row.to(tl.int64)[:, None] * inner + column[None, :]
    tl.store(where, result.to(out.dtype.element_ty), mask=valid[:, None] & there[None, :])


@triton.jit(do_not_specialize=["max_blocks", "num_tiles"])
def _down(
    x, weight, out, order, routing, blocks, num_blocks, max_blocks, num_tiles, inner, hidden,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    block, tile = _locate(blocks, num_blocks, max_blocks, num_tiles, BAND)
    if block >= tl.load(num_blocks):
        return
    expert = tl.load(blocks + block).to(tl.int64)
    row = tl.load(blocks + max_blocks + block) + tl.arange(0, ROWS)
    valid = row < tl.load(blocks + 2 * max_blocks + block)
    pair = tl.load(order + row, mask=valid, other=0)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    there = column < hidden
    depth = tl.arange(0, DEPTH)
    rows = x + row.to(tl.int64)[:, None] * inner + depth[None, :]
    matrix = weight + expert * hidden * inner + column.to(tl.int64)[None, :] * inner + depth[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, inner, DEPTH):
        if EVEN:
            a = tl.load(rows, mask=valid[:, None], other=0.0)
            w = tl.load(matrix)
        else:
            inside = start + depth < inner
            a = tl.load(rows, mask=valid[:, None] & inside[None, :], other=0.0)
            w = tl.load(matrix, mask=inside[:, None] & there[None, :], other=0.0)
        total = tl.dot(a, w, total)
        rows += DEPTH
        matrix += DEPTH
    total = total * tl.load(routing + pair, mask=valid, other=0.0)[:, None]
    where = out + pair.to(tl.int64)[:, None] * hidden + column[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=valid[:, None] & there[None, :])


@triton.jit
def _add_places(parts, chosen, out, hidden, K: tl.constexpr, WIDTH: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = column < hidden
    total = tl.zeros((WIDTH,), tl.float32)
    for place in tl.static_range(K):
        pair = token * K + place
        # Nothing was written for a place without an expert.
        wanted = there & (tl.load(chosen + pair) >= 0)
        total += tl.load(parts + pair * hidden + column, mask=wanted, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + column, total.to(out.dtype.element_ty), mask=there)


def gate_up(x: torch.Tensor, weight: torch.Tensor, groups: Groups, k: int, tile: Tile) -> torch.Tensor:
    """x: [n, hidden]; weight: [experts, 2 * inner, hidden], gate first. silu(gate) * up of each grouped row:
    [pairs, inner] in the order of `groups`."""
    hidden, inner = x.shape[1], weight.shape[1] // 2
    out = torch.empty(len(groups.order), inner, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(inner, tile.columns)
    _gate_up[(groups.max_blocks * tiles,)](
        x, x.stride(0), weight, out, groups.order, groups.blocks, groups.num_blocks, groups.max_blocks, tiles, hidden,
        inner, k, ROWS=groups.block_rows, COLUMNS=tile.columns, DEPTH=tile.depth, BAND=tile.band,
        EVEN=hidden % tile.depth == 0 and inner % tile.columns == 0, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def down(x: torch.Tensor, weight: torch.Tensor, routing: torch.Tensor, groups: Groups, tile: Tile) -> torch.Tensor:
    """x: [pairs, inner], as `gate_up` returns it; weight: [experts, hidden, inner]; routing: [n, k] float32.
    Weighted results [pairs, hidden] in the order of pairs; what has no expert stays unwritten."""
    pairs, inner = x.shape
    hidden = weight.shape[1]
    out = torch.empty(pairs, hidden, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(hidden, tile.columns)
    _down[(groups.max_blocks * tiles,)](
        x, weight, out, groups.order, routing, groups.blocks, groups.num_blocks, groups.max_blocks, tiles, inner,
        hidden, ROWS=groups.block_rows, COLUMNS=tile.columns, DEPTH=tile.depth, BAND=tile.band,
        EVEN=inner % tile.depth == 0 and hidden % tile.columns == 0, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def add_places(parts: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """parts: [n * k, hidden], chosen: [n, k]; the sum of each token's k rows, place by place: [n, hidden]."""
    n, k = chosen.shape
    hidden = parts.shape[1]
    out = torch.empty(n, hidden, dtype=parts.dtype, device=parts.device)
    width = min(1024, triton.next_power_of_2(hidden))
    _add_places[(n, triton.cdiv(hidden, width))](parts, chosen, out, hidden, K=k, WIDTH=width, num_warps=4)
    return out
