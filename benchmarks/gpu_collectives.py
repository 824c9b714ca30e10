"""Measure all-reduces of tensor-parallel ranks and transfers between stages: through peer memory, and through NCCL.

    python benchmarks/gpu_collectives.py [--gpus 2]

All-reduces of [rows, 5120] bfloat16 are timed in CUDA graphs of 128. Transfers are timed in round trips, and by the
time of matrix products beside a transfer that waits for its other end. Each part runs in processes of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

HIDDEN, TOKENS = 5120, 1800
ROWS = (1, 8, 64, 256, 1024)
CALLS = 128
TURNS = 8
SECONDS = 120


def _median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]


def _graph_us(run: Callable[[], Any]) -> float:
    """Return the microseconds of one of CALLS runs in a CUDA graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    times = []
    for _ in range(TURNS):
        dist.barrier()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / CALLS)
    return _median(times[1:])


def all_reduces(world: Any, rank: int) -> None:
    from gllm.parallel.tensor_group import DistributedGroup

    groups = {"peer memory": world.group}
    ranks = list(range(dist.get_world_size()))
    groups["NCCL"] = DistributedGroup(dist.new_group(ranks), ranks, rank)
    for name, group in groups.items():
        times = []
        for rows in ROWS:
            x = torch.zeros(rows, HIDDEN, dtype=torch.bfloat16, device="cuda")
            times.append(_graph_us(lambda group=group, x=x: group.all_reduce(x)))  # type: ignore[misc]
        if rank == 0:
            print(
                f"{f'all-reduce, {name}':>32}: "
                + ", ".join(f"{r} rows {t:.1f} us" for r, t in zip(ROWS, times, strict=True)),
                flush=True,
            )


class Products:
    """The four products of two layers of the 32B shape, for TOKENS tokens: about 5 ms on an H100."""

    def __init__(self) -> None:
        self._pairs = [
            (
                torch.randn(TOKENS, inner, dtype=torch.bfloat16, device="cuda"),
                torch.randn(outer, inner, dtype=torch.bfloat16, device="cuda"),
            )
            for outer, inner in ((7168, 5120), (5120, 5120), (55296, 5120), (5120, 27648))
        ]

    def ms(self, beside: Callable[[], Any] = lambda: None) -> float:
        """Return the time of the products; `beside` begins something that waits meanwhile."""
        torch.cuda.synchronize()
        beside()
        time.sleep(0.003)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(2):
            for x, weight in self._pairs:
                torch.nn.functional.linear(x, weight)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def _beside(products: Products, transfer: Callable[[], Any], waits: bool) -> float:
    """Return how much longer products take beside this rank's end of a transfer, which begins before the other end."""
    alone, beside = [], []
    for _ in range(TURNS):
        dist.barrier()
        if waits:
            alone.append(products.ms())
            beside.append(products.ms(transfer))
        dist.barrier()
        if not waits:
            transfer()
        torch.cuda.synchronize()
    return _median(beside[2:]) / _median(alone[2:]) if waits else 0.0


def links(world: Any, rank: int) -> None:
    from gllm.parallel.stage_link import DistributedReceiver, DistributedSender

    device = torch.device("cuda", rank)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=torch.bfloat16, device="cuda")
    ends = {"peer memory": world.after or world.before}
    for ctas in (1, 4):
        options = dist.ProcessGroupNCCL.Options()
        options.config.max_ctas = ctas
        pair = dist.new_group([0, 1], pg_options=options)
        ends[f"NCCL, {ctas} CTAs"] = (
            DistributedSender(pair, 1, most_unsent=8)
            if rank == 0
            else DistributedReceiver(pair, 0, (HIDDEN,), torch.bfloat16, device)
        )
    products, arrivals = Products(), torch.cuda.Stream()
    for name, end in ends.items():
        figures = []

        def transfer(rows: int = TOKENS, end: Any = end) -> None:
            if rank == 0:
                end.send(hidden[:rows])
            else:
                with torch.cuda.stream(arrivals):
                    end.receive(rows)

        transfer()
        torch.cuda.synchronize()
        for rows in (64, TOKENS):
            dist.barrier()
            started = time.perf_counter()
            for _ in range(30):
                transfer(rows)
            torch.cuda.synchronize()
            figures.append(f"{rows} rows {(time.perf_counter() - started) / 30 * 1e6:.0f} us")
        slower = torch.tensor([_beside(products, transfer, waits=rank == waiting) for waiting in (0, 1)], device=device)
        dist.all_reduce(slower)
        if rank == 0:
            text = f"products beside a waiting send {slower[0]:.3f} x, beside a waiting receive {slower[1]:.3f} x"
            print(f"{f'links, {name}':>32}: {', '.join(figures)}; {text}", flush=True)


def _run(part: Callable[[Any, int], None], pp: int, tp: int, rank: int, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(pp * tp),
    }
    from gllm.parallel.layout import RankCoords
    from gllm.parallel.world import join_world, leave_world

    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    coords = RankCoords(pp, tp, rank)
    sizes = {"hidden_size": HIDDEN, "most_tokens": TOKENS, "most_sampled": 1}
    world = join_world(coords, **sizes, dtype=torch.bfloat16, device=device)
    with torch.inference_mode():
        part(world, rank)
    torch.cuda.synchronize()
    dist.barrier()
    leave_world()


def _start(part: Callable[[Any, int], None], pp: int, tp: int) -> None:
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [context.Process(target=_run, args=(part, pp, tp, rank, port)) for rank in range(pp * tp)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        if process.exitcode != 0:
            print(f"{part.__name__}: failed or took longer than {SECONDS} s")
            for other in processes:
                other.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    options = parser.parse_args()
    _start(all_reduces, pp=1, tp=options.gpus)
    _start(links, pp=2, tp=1)


if __name__ == "__main__":
    main()
