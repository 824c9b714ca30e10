"""Compare policies on a real pipeline on this machine's CPU: `python benchmarks/balance.py`.

The program serves SmolLM2-135M-Instruct with `gllm serve --pp P --threads 1` under each policy in turn and sends the
same workload over HTTP. It reports throughput, TTFT and TPOT and, from the server's trace file, the bubble share of
the stages and the tokens of each micro-batch. Runs alternate between the policies, `--repeats` times; ratios are
pairwise, against the first policy.

With more stages than cores a stage would use the bubbles of another. `--quota` gives each worker a CPU quota (cgroups,
needs root) of cores / stages less a margin for the other processes. Each stage then behaves like its own slower core,
and its idle time is lost, as on a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gllm.apps.bench import report
from gllm.apps.bench.client import Endpoint
from gllm.apps.bench.serving import find_model, run_requests
from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.engine.trace import read_slices
from servers import MAX_MODEL_LEN, Server, ServerCommand, free_port

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
FRONT_END = 0.3
"""Cores for gateway, engine and client when stages have a quota."""


FIGURES = {
    "output_tokens_per_second": 0,
    "ttft_mean": 0,
    "ttft_p99": 0,
    "tpot_mean": 1,
    "bubble": 3,
    "cv": 2,
}
"""The columns of the table, with their number of decimals."""


@dataclass
class Run:
    """One measurement of one policy at one number of stages."""

    pp: int
    policy: str
    output_tokens_per_second: float
    ttft_mean: float
    ttft_p99: float
    tpot_mean: float
    bubble: float
    """Mean over stages of 1 - busy / (first micro-batch's start to last one's end)."""
    cv: float
    """Coefficient of variation of the predicted work of micro-batches, by stage 0's measured seconds."""
    micro_batches: list[tuple[float, int, int]]
    """(seconds after the first, prefill tokens, decode rows) of each on stage 0."""


def serve_command(policy: str, pp: int, trace: Path, flags: list[str]) -> ServerCommand:
    port = free_port()
    command = [
        *(sys.executable, "-c", "from gllm.apps.cli.main import main; main()", "serve"),
        *("--host", "127.0.0.1", "--port", str(port), "--pp", str(pp), "--threads", "1", "--policy", policy),
        *("--max-model-len", str(MAX_MODEL_LEN), "--no-prefix-caching", "--trace", str(trace), *flags),
    ]
    return ServerCommand(f"{policy} pp{pp}", command, port, health="/ready")


def workers_of(pid: int) -> list[int]:
    """Return the worker processes that the supervisor `pid` started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"gllm.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


@contextlib.contextmanager
def quota(pids: list[int], cores: float) -> Iterator[None]:
    """Limit each process to `cores` of a core within this context (cgroup v2, or the cpu controller of v1)."""
    root = CGROUPS / "cpu" if (CGROUPS / "cpu" / "cpu.cfs_quota_us").exists() else CGROUPS
    if root == CGROUPS:
        (root / "cgroup.subtree_control").write_text("+cpu")
    allowed = int(cores * PERIOD_US)
    groups = [root / f"gllm-balance-{pid}" for pid in pids]
    try:
        for pid, group in zip(pids, groups, strict=True):
            group.mkdir()
            if root == CGROUPS:
                (group / "cpu.max").write_text(f"{allowed} {PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(allowed))
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for pid, group in zip(pids, groups, strict=True):
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(str(pid))
            with contextlib.suppress(OSError):
                group.rmdir()


def measure(policy: str, pp: int, options: argparse.Namespace, seed: int, folder: Path) -> Run:
    trace = folder / f"{policy}-pp{pp}-{seed}.trace.json"
    requests = make_requests(
        WORKLOADS[options.workload], options.num_prompts, seed=seed, rate=options.rate, max_model_len=MAX_MODEL_LEN
    )
    command = serve_command(policy, pp, trace, options.flags)
    with Server(command, trace.with_suffix(".log")) as server, contextlib.ExitStack() as stack:
        if options.quota:
            share = min(1.0, ((os.cpu_count() or 1) - FRONT_END) / pp)
            stack.enter_context(quota(workers_of(server.process.pid), share))

        async def run() -> tuple[Any, float]:
            endpoint = Endpoint.from_url(command.url)
            endpoint = Endpoint.from_url(command.url, model=(await find_model(endpoint)).name)
            return await run_requests(endpoint, requests)

        records, duration = asyncio.run(run())
    summary = report.as_json(report.summarize(records, duration), {})
    assert summary["completed"] == len(requests), f"{summary['failed']} requests failed"
    bubble, cv, micro_batches = balance_of(trace, pp)
    return Run(
        pp,
        policy,
        summary["output_throughput"],
        summary["mean_ttft_ms"],
        summary["p99_ttft_ms"],
        summary["mean_tpot_ms"],
        bubble,
        cv,
        micro_batches,
    )


def balance_of(trace: Path, pp: int) -> tuple[float, float, list[tuple[float, int, int]]]:
    """Return (bubble share, coefficient of variation of stage 0's step times, its micro-batches) of a trace file."""
    slices = read_slices(trace)
    first = min(piece.begin for piece in slices)
    last = max(piece.end for piece in slices)
    bubble = 1.0 - sum(piece.seconds for piece in slices) / pp / (last - first)
    on_first = [piece for piece in slices if piece.stage == 0]
    times = [piece.seconds for piece in on_first]
    micro_batches = [(piece.begin - first, piece.work.prefill_tokens, piece.work.decode_rows) for piece in on_first]
    return bubble, statistics.pstdev(times) / statistics.mean(times), micro_batches


def ratios(runs: list[Run], pp: int, policies: list[str]) -> Iterator[str]:
    """Yield the lines of the table: medians, and medians of the pairwise ratios to the first policy."""
    base = [run for run in runs if run.pp == pp and run.policy == policies[0]]
    for policy in policies:
        mine = [run for run in runs if run.pp == pp and run.policy == policy]
        cells = [f"| {pp} | {policy} "]
        for name, digits in FIGURES.items():
            values = [getattr(run, name) for run in mine]
            against = [getattr(a, name) / getattr(b, name) for a, b in zip(mine, base, strict=True)]
            cells.append(f"| {statistics.median(values):.{digits}f} ({statistics.median(against):.2f}x) ")
        yield "".join(cells) + "|"


def draw(runs: list[Run], path: Path) -> None:
    """Draw the tokens of each micro-batch over time, with a panel for each number of stages and policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs_by_case = {(run.pp, run.policy): run for run in runs}
    depths = sorted({run.pp for run in runs})
    policies = list(dict.fromkeys(run.policy for run in runs))
    figure, axes = pyplot.subplots(
        len(policies), len(depths), figsize=(5.5 * len(depths), 2.3 * len(policies)), squeeze=False, sharex="col"
    )
    for column, pp in enumerate(depths):
        most = max(p + d for policy in policies for _, p, d in runs_by_case[pp, policy].micro_batches)
        for row, policy in enumerate(policies):
            run, axis = runs_by_case[pp, policy], axes[row][column]
            at = [second for second, _, _ in run.micro_batches]
            decodes = [rows for _, _, rows in run.micro_batches]
            tokens = [prefill + rows for _, prefill, rows in run.micro_batches]
            axis.vlines(at, decodes, tokens, color="tab:orange", linewidth=1.2, label="prefill tokens")
            axis.vlines(at, 0, decodes, color="tab:blue", linewidth=1.2, label="decode tokens")
            axis.set_yscale("symlog", linthresh=64)
            axis.set_ylim(0, most * 1.3)
            axis.set_title(f"PP{pp}, {policy}: bubble {run.bubble:.0%}, step time CV {run.cv:.2f}", fontsize=9)
            axis.grid(alpha=0.3)
            if row == len(policies) - 1:
                axis.set_xlabel("seconds")
            if column == 0:
                axis.set_ylabel("tokens")
    axes[0][0].legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pp", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--policies", nargs="+", default=["token_throttling", "chunked_prefill"])
    parser.add_argument("--workload", "--trace", default="cpu", choices=sorted(WORKLOADS))
    parser.add_argument("--num-prompts", type=int, default=128)
    parser.add_argument("--rate", type=float, default=math.inf, help="requests per second (default: all at once)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quota", action="store_true", help="give each stage its own CPU quota")
    parser.add_argument("--output", type=Path, default=Path("/tmp/gllm-balance"))
    parser.add_argument("flags", nargs="*", help="further flags for gllm serve, after --")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for pp in options.pp:
        for repeat in range(options.repeats):
            for policy in options.policies:
                run = measure(policy, pp, options, repeat, options.output)
                runs.append(run)
                print(
                    f"pp{pp} {policy:18} {run.output_tokens_per_second:7.1f} out tok/s  TTFT {run.ttft_mean:7.0f} ms  "
                    f"TPOT {run.tpot_mean:6.1f} ms  bubble {run.bubble:.3f}  CV {run.cv:.2f}",
                    flush=True,
                )
    print("\n| pp | policy | out tok/s | TTFT mean ms | TTFT p99 ms | TPOT mean ms | bubble | step CV |")
    print("|" + "---|" * 8)
    for pp in options.pp:
        print("\n".join(ratios(runs, pp, options.policies)))
    name = re.sub(r"\W+", "-", f"balance-{options.workload}")
    (options.output / f"{name}.json").write_text(json.dumps([vars(run) for run in runs]))
    draw(runs, options.output / f"{name}.png")
    print(f"\ndrawn: {options.output / f'{name}.png'}")


if __name__ == "__main__":
    main()
