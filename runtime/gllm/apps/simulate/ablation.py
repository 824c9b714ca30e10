"""The grid of policies, depths, workloads, rates and seeds that docs/simulator.md shows, over all cores."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from statistics import fmean

import msgspec

from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.simulate.figures import Figures, figures_of
from gllm.apps.simulate.hardware import Hardware
from gllm.apps.simulate.presets import PRESETS
from gllm.apps.simulate.simulation import Outcome, Simulation
from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.loop import freeze_gc
from gllm.engine.time_model import Work

MAX_NUM_SEQS = 1024


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """The cases to run."""

    preset: str = "qwen2.5-32b-h200"
    policies: tuple[PolicyName, ...] = POLICY_NAMES
    depths: tuple[int, ...] = (2, 4, 8, 16)
    workloads: tuple[str, ...] = ("sharegpt", "azure")
    loads: tuple[float, ...] = (0.5, 0.8, 1.1)
    """Request rates, as shares of `capacity`."""
    seeds: int = 2
    seconds: float = 24.0
    """Duration of arrivals."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline under one load; every policy gets the same requests and the same jitter."""

    preset: str
    pp: int
    workload: str
    load: float
    seed: int
    seconds: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a policy in one case."""

    case: Case
    policy: PolicyName
    rate: float
    figures: Figures


def capacity(hardware: Hardware, workload: str, max_num_seqs: int = MAX_NUM_SEQS) -> float:
    """Return the requests per second at which the slowest stage is always busy.

    As many decodes run as slots and KV pool allow, in pp equal micro-batches of R rows. Each micro-batch completes
    R / out requests and so prefills R * in / out tokens. Lengths are the workload's means; bubbles and jitter are not
    counted.
    """
    lengths = WORKLOADS[workload]
    prompt, output = lengths.prompt.mean, lengths.output.mean
    rows = min(max_num_seqs, hardware.kv_tokens / (prompt + output)) / hardware.pp
    prefill = rows * prompt / output
    work = Work(
        prefill_tokens=round(prefill),
        decode_rows=round(rows),
        attention=prefill * prompt / 2,
        decode_context=round(rows * (prompt + output / 2)),
        sampled_rows=round(rows + rows / output),
    )
    return rows / output / max(stage.seconds(work) for stage in hardware.stages)


def cases(grid: Grid) -> Iterator[Case]:
    for pp, workload, load, seed in itertools.product(grid.depths, grid.workloads, grid.loads, range(grid.seeds)):
        yield Case(preset=grid.preset, pp=pp, workload=workload, load=load, seed=seed, seconds=grid.seconds)


@lru_cache(maxsize=2)
def requests_of(case: Case) -> tuple[float, list[BenchRequest]]:
    """Return (requests per second, the requests)."""
    rate = case.load * capacity(PRESETS[case.preset].hardware(case.pp), case.workload)
    count = max(round(rate * case.seconds), 8)
    return rate, make_requests(WORKLOADS[case.workload], count, seed=case.seed, rate=rate)


def simulate_case(case: Case, policy: PolicyName) -> Outcome:
    requests = requests_of(case)[1]
    hardware = PRESETS[case.preset].hardware(case.pp)
    config = EngineConfig(model="", policy=policy, max_num_seqs=MAX_NUM_SEQS, enable_prefix_caching=False)
    return Simulation(config, hardware, requests, seed=case.seed).run()


def run_case(case: Case, policy: PolicyName) -> Row:
    outcome = simulate_case(case, policy)
    return Row(case=case, policy=policy, rate=requests_of(case)[0], figures=figures_of(outcome))


def _run_policies(task: tuple[Case, tuple[PolicyName, ...]]) -> list[Row]:
    case, policies = task
    return [run_case(case, policy) for policy in policies]


def run_grid(
    grid: Grid, *, processes: int = 0, on_done: Callable[[int, int], None] = lambda done, total: None
) -> list[Row]:
    """Run all cases; the rows are in the order of the grid. Calls on_done(cases done, all cases)."""
    tasks = [(case, grid.policies) for case in cases(grid)]
    rows: list[Row] = []
    workers = processes or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, initializer=freeze_gc) as pool:
        for done, found in enumerate(pool.map(_run_policies, tasks), 1):
            rows += found
            on_done(done, len(tasks))
    return rows


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """Means over seeds of one policy at one depth, workload and load."""

    pp: int
    workload: str = msgspec.field(name="trace")
    """Written to JSON under its old name."""
    load: float
    rate: float
    policy: PolicyName
    throughput: float
    """Steady throughput in tokens per second."""
    ttft_mean: float
    ttft_p99: float
    tpot_mean: float
    tpot_p99: float
    e2el_mean: float
    bubble: float
    tokens_mean: float
    tokens_std: float
    tokens_cv: float
    time_cv: float
    preemptions: float


def means(rows: Iterable[Row]) -> list[Mean]:
    """Return the means over seeds, in the order of the rows."""
    groups: dict[tuple[int, str, float, PolicyName], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case.pp, row.case.workload, row.case.load, row.policy), []).append(row)
    result = []
    for (pp, workload, load, policy), group in groups.items():
        figures = [row.figures for row in group]

        def mean(values: Iterable[float]) -> float:
            return fmean(list(values))

        result.append(
            Mean(
                pp=pp,
                workload=workload,
                load=load,
                rate=group[0].rate,
                policy=policy,
                throughput=mean(f.steady_throughput for f in figures),
                ttft_mean=mean(f.summary.ttft.mean for f in figures),
                ttft_p99=mean(f.summary.ttft.p99 for f in figures),
                tpot_mean=mean(f.summary.tpot.mean for f in figures),
                tpot_p99=mean(f.summary.tpot.p99 for f in figures),
                e2el_mean=mean(f.summary.e2el.mean for f in figures),
                bubble=mean(f.bubble for f in figures),
                tokens_mean=mean(f.tokens_mean for f in figures),
                tokens_std=mean(f.tokens_std for f in figures),
                tokens_cv=mean(f.tokens_cv for f in figures),
                time_cv=mean(f.time_cv for f in figures),
                preemptions=mean(f.preemptions for f in figures),
            )
        )
    return result


COLUMNS = [
    "PP", "rate/s (load)", "policy", "steady tok/s", "TTFT mean/p99 ms", "TPOT mean/p99 ms", "bubble",
    "tokens mean/std/CV", "time CV", "preempted",
]  # fmt: skip


def cells(mean: Mean) -> list[str]:
    """Return a row of COLUMNS."""
    return [
        str(mean.pp),
        f"{mean.rate:.0f} ({mean.load:g})",
        mean.policy,
        f"{mean.throughput:.0f}",
        f"{mean.ttft_mean:.0f}/{mean.ttft_p99:.0f}",
        f"{mean.tpot_mean:.1f}/{mean.tpot_p99:.1f}",
        f"{100 * mean.bubble:.1f} %",
        f"{mean.tokens_mean:.0f}/{mean.tokens_std:.0f}/{mean.tokens_cv:.2f}",
        f"{mean.time_cv:.2f}",
        f"{mean.preemptions:.0f}",
    ]
