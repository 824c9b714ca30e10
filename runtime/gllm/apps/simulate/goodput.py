"""Goodput against the request rate: `balanced` with latency targets, and every policy at its best fixed #MaxP."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean

import msgspec

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.report import meets
from gllm.apps.simulate.ablation import MAX_NUM_SEQS, Case, requests_of
from gllm.apps.simulate.presets import PRESETS
from gllm.apps.simulate.simulation import Simulation
from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.loop import freeze_gc

TARGETS = "balanced with targets"
_SETTLED = 0.2
"""Requests that arrive in the first part of a run do not count."""


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """The cases to run. Times are seconds."""

    preset: str = "qwen2.5-32b-h200"
    depths: tuple[int, ...] = (1, 4)
    workloads: tuple[str, ...] = ("sharegpt", "azure")
    loads: tuple[float, ...] = (0.4, 0.6, 0.8, 0.9, 1.0, 1.2, 1.4)
    """Request rates, as shares of `gllm.apps.simulate.ablation.capacity`."""
    fixed: tuple[int, ...] = (256, 512, 1024, 2048)
    """Values of #MaxP."""
    ttft: float = 1.5
    """Twice the time of the longest prompt alone with pp = 1."""
    tpot: float = 0.05
    seeds: int = 2
    seconds: float = 20.0
    """Duration of arrivals."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One line at one rate: means over the seeds."""

    pp: int
    workload: str
    rate: float
    """Requests per second."""
    line: str
    """A policy, or TARGETS."""
    max_prefill_tokens: int
    """The #MaxP with the highest goodput; with targets the default."""
    goodput: float
    """Requests per second that meet both targets."""


def share_met(records: Sequence[RequestRecord], bounds: dict[str, float]) -> float:
    """Return the share of the requests that meet `bounds` (milliseconds), of those that arrive after a run's start.

    Every request counts, whenever it ends: times the rate, this is the goodput under a load that goes on.
    """
    last = max(record.start for record in records)
    counted = [record for record in records if record.start >= _SETTLED * last]
    return fmean(meets(record, bounds) for record in counted)


def _run(task: tuple[Curves, Case, PolicyName, int]) -> float:
    """Return the goodput of one run in requests per second; #MaxP 0 means with targets."""
    curves, case, policy, most = task
    config = EngineConfig(model="", policy=policy, max_num_seqs=MAX_NUM_SEQS, enable_prefix_caching=False)
    if most:
        config = msgspec.structs.replace(config, max_prefill_tokens=most)
    else:
        config = msgspec.structs.replace(config, ttft_target=curves.ttft, tpot_target=curves.tpot)
    hardware = PRESETS[case.preset].hardware(case.pp)
    rate, requests = requests_of(case)
    outcome = Simulation(config, hardware, requests, seed=case.seed).run()
    return rate * share_met(outcome.records, {"ttft": 1e3 * curves.ttft, "tpot": 1e3 * curves.tpot})


def run_curves(
    curves: Curves, *, processes: int = 0, on_done: Callable[[int, int], None] = lambda done, total: None
) -> list[Point]:
    """Run all cases. Calls on_done(runs done, all runs)."""
    settings: list[tuple[PolicyName, int]] = [("balanced", 0), *itertools.product(POLICY_NAMES, curves.fixed)]
    places = list(itertools.product(curves.depths, curves.workloads, curves.loads))
    tasks = [
        (
            curves,
            Case(preset=curves.preset, pp=pp, workload=workload, load=load, seed=seed, seconds=curves.seconds),
            *it,
        )
        for pp, workload, load in places
        for seed in range(curves.seeds)
        for it in settings
    ]
    found: dict[tuple[int, str, float, PolicyName, int], list[float]] = {}
    with ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), initializer=freeze_gc) as pool:
        for done, (task, goodput) in enumerate(zip(tasks, pool.map(_run, tasks), strict=True), 1):
            _, case, policy, most = task
            found.setdefault((case.pp, case.workload, case.load, policy, most), []).append(goodput)
            on_done(done, len(tasks))
    points = []
    for pp, workload, load in places:
        case = Case(preset=curves.preset, pp=pp, workload=workload, load=load, seed=0, seconds=curves.seconds)
        rate = requests_of(case)[0]
        lines: list[tuple[str, PolicyName, tuple[int, ...]]] = [(TARGETS, "balanced", (0,))]
        lines += [(policy, policy, curves.fixed) for policy in POLICY_NAMES]
        for line, policy, values in lines:
            best, most = max((fmean(found[pp, workload, load, policy, most]), most) for most in values)
            points.append(Point(pp=pp, workload=workload, rate=rate, line=line, max_prefill_tokens=most, goodput=best))
    return points


def columns(curves: Curves) -> list[str]:
    """Return the heads of `rows`: rates as shares of capacity."""
    return ["rate / capacity", *(f"{load:g}" for load in curves.loads)]


def rows(points: Sequence[Point]) -> list[list[str]]:
    """Return a table for each depth and workload: rates, then the goodput of each line with its best #MaxP."""
    table = []
    for pp, workload in dict.fromkeys((point.pp, point.workload) for point in points):
        here = [point for point in points if (point.pp, point.workload) == (pp, workload)]
        rates = list(dict.fromkeys(point.rate for point in here))
        table.append([f"{workload}, PP{pp}: requests/s", *(f"{rate:.1f}" for rate in rates)])
        for line in dict.fromkeys(point.line for point in here):
            values = [point for point in here if point.line == line]
            table.append(
                [
                    line,
                    *(
                        f"{point.goodput:.2f}" + (f" ({point.max_prefill_tokens})" if point.max_prefill_tokens else "")
                        for point in values
                    ),
                ]
            )
    return table
