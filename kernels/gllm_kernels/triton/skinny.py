"""Matrix products of a few rows with a large weight: their time is that of reading the weight.

cuBLAS reads a weight at 75 to 80 % of an H200's bandwidth for up to 32 rows, these kernels at 85 to 90 %
(docs/performance.md). Each program keeps the tensor cores' long side for the outputs, so that a row costs as little as
16 rows do. The weight is read once and leaves the cache first.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

MOST_ROWS = 32
"""With more rows cuBLAS is as fast."""
LEAST_WEIGHT = 64 * 2**20
"""Elements of a weight from which the kernels win: below, a launch does not fill the device."""
_OUTPUTS, _INPUTS = 64, 128
"""A program's tile of the weight."""
_PROGRAMS = 240
"""Programs that keep an H100's 132 multiprocessors busy, at two each."""


def fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernels can compute x [n, in] times weight [out, in], and are faster."""
    outputs, inputs = weight.shape
    return (
        0 < len(x) <= MOST_ROWS
        and outputs * inputs >= LEAST_WEIGHT
        and outputs % (2 * _OUTPUTS) == 0
        and inputs % _INPUTS == 0
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.dtype.itemsize == 2
    )


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x [n, in] times weight [out, in]: [n, out].

    Where the outputs are too few to fill the device, `in` is divided, too; the parts are added in one order.
    """
    n, inputs = x.shape
    outputs = len(weight)
    tiles, blocks = outputs // _OUTPUTS, inputs // _INPUTS
    each = -(-blocks // min(max(_PROGRAMS // tiles, 1), blocks))
    splits = -(-blocks // each)
    y = torch.empty(n, outputs, dtype=x.dtype, device=x.device)
    rows, stages = _rows_and_stages(n)
    partial, counters = _workspace(splits * outputs * MOST_ROWS if splits > 1 else 1, x.device)
    _linear[(tiles, splits)](
        x, weight, y, partial, counters, n, outputs, inputs, each * _INPUTS, splits,
        ROWS=rows, OUTPUTS=_OUTPUTS, INPUTS=_INPUTS, num_warps=4, num_stages=stages,
    )  # fmt: skip
    return y


def gated_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return silu(x times the first half of the weight's rows) * (x times the second half): [n, out / 2]."""
    n, inputs = x.shape
    outputs = len(weight) // 2
    y = torch.empty(n, outputs, dtype=x.dtype, device=x.device)
    rows, stages = _rows_and_stages(n)
    _gated[(outputs // _OUTPUTS,)](
        x, weight, y, n, outputs, inputs,
        ROWS=rows, OUTPUTS=_OUTPUTS, INPUTS=_INPUTS, num_warps=4, num_stages=stages,
    )  # fmt: skip
    return y


def _rows_and_stages(n: int) -> tuple[int, int]:
    """Return the padded number of rows and the depth of the read-ahead, as measured best on an H200."""
    return (16, 3) if n <= 16 else (32, 4)


@cache
def _workspace(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return memory for `size` partial sums and zeroed counters. Steps share it: they run one after the other.

    The first call must be eager: a capture would keep the zeros for its own replays. (Captures warm up eagerly.)
    """
    counters = torch.zeros(_PROGRAMS, dtype=torch.int32, device=device)
    return torch.empty(size, dtype=torch.float32, device=device), counters


@triton.jit(do_not_specialize=["n"])
def _linear(
    x, weight, y, partial, counters, n, outputs, inputs, each, splits,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    tile, split, tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    out, row, column = tile * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, ROWS), tl.arange(0, INPUTS)
    first = split * each
    weights = weight + out[:, None].to(tl.int64) * inputs + (first + column)[None, :]
    values = x + row[None, :] * inputs + (first + column)[:, None]
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for _ in range(first, min(inputs, first + each), INPUTS):
        w = tl.load(weights, eviction_policy="evict_first")
        total = tl.dot(w, tl.load(values, mask=row[None, :] < n, other=0.0), total)
        weights += INPUTS
        values += INPUTS
    result = y + row[None, :] * outputs + out[:, None]
    if splits == 1:
        tl.store(result, total.to(y.dtype.element_ty), mask=row[None, :] < n)
    else:
        at = tl.arange(0, OUTPUTS)[:, None] * ROWS + row[None, :]
        tl.store(partial + (split * tiles + tile) * OUTPUTS * ROWS + at, total)
        tl.debug_barrier()  # all of the program's sums are written before it counts itself
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") == splits - 1:
            tl.store(counters + tile, 0)
            total = tl.zeros([OUTPUTS, ROWS], tl.float32)
            for part in range(splits):
                total += tl.load(partial + (part * tiles + tile) * OUTPUTS * ROWS + at, cache_modifier=".cg")
            tl.store(result, total.to(y.dtype.element_ty), mask=row[None, :] < n)


@triton.jit(do_not_specialize=["n"])
def _gated(
    x, weight, y, n, outputs, inputs, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    out, row, column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, ROWS), tl.arange(0, INPUTS)
    gates = weight + out[:, None].to(tl.int64) * inputs + column[None, :]
    ups = gates + outputs.to(tl.int64) * inputs
    values = x + row[None, :] * inputs + column[:, None]
    gate, up = tl.zeros([OUTPUTS, ROWS], tl.float32), tl.zeros([OUTPUTS, ROWS], tl.float32)
    for _ in range(0, inputs, INPUTS):
        w, v = tl.load(gates, eviction_policy="evict_first"), tl.load(ups, eviction_policy="evict_first")
        value = tl.load(values, mask=row[None, :] < n, other=0.0)
        gate, up = tl.dot(w, value, gate), tl.dot(v, value, up)
        gates += INPUTS
        ups += INPUTS
        values += INPUTS
    # As if the product had been stored in 16 bits, then read by the activation.
    gate = gate.to(y.dtype.element_ty).to(tl.float32)
    up = up.to(y.dtype.element_ty).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y + row[None, :] * outputs + out[:, None], result.to(y.dtype.element_ty), mask=row[None, :] < n)
