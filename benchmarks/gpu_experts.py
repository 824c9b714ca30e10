"""Measure one mixture of experts on a GPU, and search for its tiles.

    python benchmarks/gpu_experts.py [--tune] [--general]

The program prints, for 1 to 8192 tokens of Mixtral's and Qwen3-30B-A3B's sizes, the time of routing, grouping, products
and sum, the resulting rates, and the time at the limits of the device: reading the weights of the hit experts once at
the datasheet's bandwidth, or computing the products at the measured rate of a large one. --tune only tries tiles and
writes the best of each size to kernels/gllm_kernels/triton/tuned.py; --general times the general tiles instead, for
comparison.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from gllm_kernels.triton import experts, tiles
from gllm_kernels.triton.group import Groups, group
from gllm_kernels.triton.grouped_gemm import Tile, down, gate_up
from gllm_kernels.triton.route import route

MODELS = {"mixtral-8x7b": (8, 2, 4096, 14336), "qwen3-30b-a3b": (128, 8, 2048, 768)}
TOKENS = [1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
LOW_BLOCKS_UP_TO = 10
"""Mean rows per expert above which many experts exceed the 16 rows of a low block, so their weights are read twice."""
TUNED_TOKENS = (1, 8, 32, 128, 512, 2048, 8192)
ROUTINGS = 8
BYTES_A_SECOND = {"H100": 3.35e12, "H200": 4.8e12}
COMPILERS = 14


def graph_ms(run: Callable[[int], Any]) -> float:
    """Return the milliseconds of one of ROUTINGS runs with different inputs, in a CUDA graph without host launches."""
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(ROUTINGS):
            run(index)
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / ROUTINGS)
    return sorted(times)[len(times) // 2]


def make(model: str) -> tuple[torch.Tensor, torch.Tensor]:
    count, _, hidden, inner = MODELS[model]
    weights = torch.empty(count, 2 * inner, hidden, dtype=torch.bfloat16, device="cuda").normal_(0, 0.02)
    return weights, torch.empty(count, hidden, inner, dtype=torch.bfloat16, device="cuda").normal_(0, 0.02)


def ceilings() -> tuple[float, float]:
    """Return (measured FLOP/s of a large bf16 product, bytes/s by the datasheet)."""
    a = torch.randn(8192, 8192, device="cuda").bfloat16()
    flops = 2 * 8192**3 / graph_ms(lambda _: a @ a) * 1e3
    return flops, BYTES_A_SECOND["H200" if "H200" in torch.cuda.get_device_name() else "H100"]


def candidates(rows: int, both: bool) -> list[Tile]:
    """Return the tiles to try for blocks of `rows`; `both`: for the product with two accumulators."""
    if rows == 16:
        grid = itertools.product((32, 64, 128), (64, 128, 256), (4,), (3, 4, 5))
    elif rows == 32:
        grid = itertools.product((64, 128), (64, 128), (4,), (3, 4))
    elif rows == 64:
        grid = itertools.product((64, 128, 256), (64, 128), (4, 8), (3, 4))
    else:
        grid = itertools.product((64, 128, 256), (64,), (8,), (3, 4))
    found = []
    for columns, depth, warps, stages in grid:
        shared = stages * depth * (rows + columns * (2 if both else 1)) * 2
        registers = rows * columns * (2 if both else 1) // (warps * 32)
        if shared <= 220 * 1024 and registers <= 128 and columns * rows >= 512:
            band = 16 if rows >= 64 else 8
            found += [Tile(columns, depth, warps, stages, band, described) for described in (rows == 128, False)]
    return list(dict.fromkeys(found))


def _compile(jobs: list[tuple[str, int, bool, Tile]]) -> None:
    """Fill Triton's cache on disk; runs in a separate process."""
    for model, rows, both, tile in jobs:
        _, k, hidden, inner = MODELS[model]
        small = (torch.zeros(2, 2 * inner, hidden, dtype=torch.bfloat16, device="cuda"),)
        x = torch.zeros(1, hidden, dtype=torch.bfloat16, device="cuda")
        chosen = torch.zeros(1, k, dtype=torch.int32, device="cuda")
        groups = group(chosen, 2, rows)
        try:
            if both:
                gate_up(x, small[0], groups, k, tile)
            else:
                activated = torch.zeros(k, inner, dtype=torch.bfloat16, device="cuda")
                matrix = torch.zeros(2, hidden, inner, dtype=torch.bfloat16, device="cuda")
                down(activated, matrix, torch.zeros(1, k, device="cuda"), groups, tile)
        except Exception as error:
            print("cannot", model, rows, both, tile, str(error)[:80])


def block_rows(per_expert: float) -> list[int]:
    """Return the heights of blocks to try."""
    return [
        rows for rows in (16, 32, 64, 128) if rows <= max(16, 2.1 * per_expert) and (rows >= 64 or per_expert < 300)
    ]


class Case:
    """The experts of one model and ROUTINGS batches of tokens."""

    def __init__(self, model: str, weights: tuple[torch.Tensor, torch.Tensor], tokens: int) -> None:
        self.count, self.k, self.hidden, self.inner = MODELS[model]
        self.wide, self.narrow = weights
        self.tokens = tokens
        self.x = [torch.randn(tokens, self.hidden, device="cuda").bfloat16() for _ in range(ROUTINGS)]
        self.logits = [torch.randn(tokens, self.count, device="cuda").bfloat16() for _ in range(ROUTINGS)]
        self.routed = [route(logits, self.k, True) for logits in self.logits]

    def whole_ms(self, plan: tiles.Tiling) -> float:
        def run(index: int) -> None:
            chosen, weights = route(self.logits[index], self.k, True)
            experts.product(self.x[index], self.wide, self.narrow, chosen, weights, plan)

        return graph_ms(run)

    def product_ms(self, groups: list[Groups], both: bool, tile: Tile) -> float:
        activated = torch.randn(self.tokens * self.k, self.inner, device="cuda").bfloat16()

        def run(index: int) -> None:
            if both:
                gate_up(self.x[index], self.wide, groups[index], self.k, tile)
            else:
                down(activated, self.narrow, self.routed[index][1], groups[index], tile)

        return graph_ms(run)

    def tune(self) -> list[Any]:
        """Return [(ms, rows of a block, best tiles of the first product, of the second)], the fastest first."""
        found = []
        for rows in block_rows(self.tokens * self.k / self.count):
            groups = [group(chosen, self.count, rows) for chosen, _ in self.routed]
            best = []
            for both in (True, False):
                timed = []
                for tile in candidates(rows, both):
                    try:
                        timed.append((self.product_ms(groups, both, tile), astuple(tile)))
                    except Exception as error:
                        print("cannot", rows, both, tile, str(error)[:60])
                best.append(min(timed))
            found.append((best[0][0] + best[1][0], rows, best[0][1], best[1][1]))
        return sorted(found)

    def floor_ms(self, flops_a_second: float, bytes_a_second: float) -> tuple[float, float, float]:
        """Return (operations, bytes, the minimum seconds for them)."""
        hit = sum(len(chosen.unique()) for chosen, _ in self.routed) / ROUTINGS
        flops = 6.0 * self.tokens * self.k * self.hidden * self.inner
        moved = hit * 6 * self.hidden * self.inner + self.tokens * self.hidden * 4
        return flops, moved, max(flops / flops_a_second, moved / bytes_a_second) * 1e3


def compile_all() -> None:
    jobs = [
        (model, rows, both, tile)
        for model in ("qwen3-30b-a3b",)
        for rows in (16, 32, 64, 128)
        for both in (True, False)
        for tile in candidates(rows, both)
    ]
    with multiprocessing.get_context("spawn").Pool(COMPILERS) as pool:
        pool.map(_compile, [jobs[index::COMPILERS] for index in range(COMPILERS)])
    print(len(jobs), "tiles compiled", flush=True)


def tune() -> None:
    compile_all()
    lines = ["import math", "", "TUNED = {"]
    for model, (count, k, hidden, inner) in MODELS.items():
        weights = make(model)
        lines.append(f"    ({hidden}, {inner}): (")
        for tokens, following in itertools.pairwise((*TUNED_TOKENS, math.inf)):
            found = Case(model, weights, tokens).tune()
            print(model, tokens, *found[:2], sep="\n   ", flush=True)
            most = math.sqrt(tokens * following) * k / count
            if found[0][1] == 16 and most > LOW_BLOCKS_UP_TO:
                most = LOW_BLOCKS_UP_TO
            limit = "math.inf" if most == math.inf else f"{most:.3g}"
            lines.append(f"        ({limit}, {', '.join(map(str, found[0][1:]))}),")
        lines.append("    ),")
    tuned = Path(tiles.__file__).with_name("tuned.py")
    docstring = tuned.read_text().partition("\nimport math")[0]
    tuned.write_text("\n".join([docstring, *lines, "}", ""]))


def report(general: bool) -> None:
    flops_a_second, bytes_a_second = ceilings()
    print(f"{torch.cuda.get_device_name()}: {flops_a_second / 1e12:.0f} TFLOP/s, {bytes_a_second / 1e9:.0f} GB/s")
    print(f"{'model':>14} {'tokens':>6} {'us':>8} {'TFLOP/s':>8} {'GB/s':>6} {'floor us':>9} {'of it':>6}")
    for model in MODELS:
        weights = make(model)
        for tokens in TOKENS:
            case = Case(model, weights, tokens)
            table = tiles.GENERAL if general else tiles.table_for(case.hidden, case.inner)
            ms = case.whole_ms(tiles.choose(tokens * case.k, case.count, table))
            flops, moved, floor = case.floor_ms(flops_a_second, bytes_a_second)
            print(
                f"{model:>14} {tokens:6} {ms * 1e3:8.1f} {flops / ms / 1e9:8.1f} {moved / ms / 1e6:6.0f} "
                f"{floor * 1e3:9.1f} {floor / ms:6.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--general", action="store_true")
    options = parser.parse_args()
    if options.tune:
        tune()
    else:
        report(options.general)


if __name__ == "__main__":
    main()
