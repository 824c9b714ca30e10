"""Compare the simulator with measured pipelines, and predict deeper ones, with a range.

    python benchmarks/simulator_vs_measured.py > docs/simulator/measured.md        # minutes on two cores

`benchmarks/measured_pipelines.jsonl` has one measurement a line; to add one, append a line. Fields: see `Measured`.
`tok_s`, `tpot_ms` and so on are the figures of `gllm bench serve`; each one that a line has is compared. Lines measured
with an older scheduler keep the figures that its simulation had: `gllm simulate` at the commit `simulated_at`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import msgspec

from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.steady import SteadyLoad
from gllm.apps.bench.window import default_requests
from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.simulate.figures import figures_of
from gllm.apps.simulate.presets import PRESETS
from gllm.apps.simulate.simulation import Simulation
from gllm.config import EngineConfig, PolicyName
from gllm.terminal import print_table

MEASURED = Path(__file__).with_name("measured_pipelines.jsonl")
SEEDS = (0, 1, 2, 3)
PREDICTED_SEEDS = (0, 1)
_WARM_UPS = 60
"""Requests before a lone prompt, as before the measured ones: the scheduler's time model has learnt from them."""
_LATER = 1000.0
"""Seconds after the warm-up at which the lone prompt arrives."""

Figures = dict[str, float]
"""tok_s, ttft_ms (mean), tpot_ms (mean), tpot_p50_ms."""
NAMES = {"tok_s": "total tok/s", "ttft_ms": "TTFT ms", "tpot_ms": "TPOT ms", "tpot_p50_ms": "TPOT p50 ms"}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline and its load."""

    preset: str
    pp: int
    policy: PolicyName
    eager: bool = False
    """Steps with prefill were launched kernel by kernel, not captured."""
    load: Literal["steady", "prompt", "burst"]
    """A closed loop; one prompt on an idle server; all requests at once."""
    workload: str = ""
    requests: int = 0
    """Requests in flight (steady) or all requests (burst)."""
    tokens: int = 0
    """Length of the prompt."""
    max_prefill_tokens: int = 2048

    @property
    def name(self) -> str:
        return f"prompt of {self.tokens}" if self.load == "prompt" else f"{self.workload} {self.load} {self.requests}"


class Measured(Load, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A load and what was measured; 0: not measured."""

    source: str
    """Date, machine, commit."""
    seeds: tuple[int, ...] = SEEDS
    """`gllm bench --seed` of the measurement, so that the simulator gets the same requests; default: it is unknown."""
    simulated_at: str = ""
    """Commit of the simulation, if the measured server scheduled otherwise than today; `simulated` has its figures."""
    simulated: dict[str, float] = {}
    tok_s: float = 0.0
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    tpot_p50_ms: float = 0.0

    @property
    def figures(self) -> Figures:
        return {name: value for name in NAMES if (value := getattr(self, name))}


def read_rows() -> list[Measured]:
    return msgspec.json.Decoder(Measured).decode_lines(MEASURED.read_bytes())


def simulate(load: Load, seed: int) -> Figures:
    config = EngineConfig(
        model="",
        policy=load.policy,
        enable_prefix_caching=False,
        max_num_seqs=1024,
        max_prefill_tokens=load.max_prefill_tokens,
    )
    hardware = PRESETS[load.preset].hardware(load.pp, eager=load.eager)
    if load.load == "prompt":
        [prompt] = make_requests(WORKLOADS["prefill"], 1, seed=seed, rate=1.0, input_len=load.tokens, output_len=4)
        warm_ups = make_requests(WORKLOADS["sharegpt"], _WARM_UPS, seed=seed, rate=float("inf"))
        requests = [*warm_ups, BenchRequest(_WARM_UPS, prompt.token_ids, prompt.output_len, _LATER)]
        return {"ttft_ms": 1e3 * Simulation(config, hardware, requests, seed=seed).run().records[-1].ttft}
    workload = WORKLOADS[load.workload]
    steady = load.load == "steady"
    count = default_requests(workload.num_prompts, load.requests) if steady else load.requests
    concurrency = load.requests if steady else None
    requests = make_requests(workload, count, seed=seed, rate=float("inf"))
    outcome = Simulation(config, hardware, requests, seed=seed, concurrency=concurrency).run()
    summary = figures_of(outcome, load=SteadyLoad(concurrency=load.requests) if steady else None).summary
    return {
        "tok_s": summary.total_token_throughput,
        "ttft_ms": summary.ttft.mean,
        "tpot_ms": summary.tpot.mean,
        "tpot_p50_ms": summary.tpot.median,
    }


class Spread(msgspec.Struct, frozen=True):
    """A figure over the seeds."""

    mean: float
    least: float
    most: float


def over_seeds(pool: ProcessPoolExecutor, load: Load, seeds: Sequence[int]) -> dict[str, Spread]:
    runs = list(pool.map(partial(simulate, load), seeds))
    return {
        name: Spread(fmean(values), min(values), max(values))
        for name in runs[0]
        for values in [[run[name] for run in runs]]
    }


def compare(pool: ProcessPoolExecutor, rows: Iterable[Measured]) -> list[float]:
    """Print a table. Returns (measured time / simulated time) of each figure, without bursts, which no range is for."""
    ratios: list[float] = []
    table = []
    for row in rows:
        recorded = {name: Spread(value, value, value) for name, value in row.simulated.items()}
        simulated = recorded or over_seeds(pool, row, row.seeds)
        for name, value in row.figures.items():
            found = simulated[name]
            table.append(
                [
                    row.source,
                    f"PP{row.pp}",
                    row.policy,
                    "eager" if row.eager else "captured",
                    row.name,
                    NAMES[name],
                    f"{value:.0f}",
                    f"{found.mean:.0f}" + (f" (at {row.simulated_at})" if recorded else ""),
                    f"{100 * (found.mean / value - 1):+.0f} %",
                ]
            )
            if row.load != "burst":
                ratios.append(found.mean / value if name == "tok_s" else value / found.mean)
    print_table(["measured", "PP", "policy", "prefill", "load", "figure", "measured", "simulated", "error"], table)
    return ratios


def predict(pool: ProcessPoolExecutor, depths: Sequence[int], ratios: Sequence[float]) -> None:
    """Print predictions. The range: the seeds' extremes, times the extreme errors at the measured depths."""
    loads = [
        Load(preset="qwen2.5-32b-h200", pp=pp, policy="balanced", load="steady", workload=workload, requests=requests)
        for workload, requests in (("sharegpt", 1024), ("azure", 512))
        for pp in depths
    ]
    loads += [
        Load(preset="qwen2.5-32b-h200", pp=pp, policy="balanced", load="prompt", tokens=tokens)
        for tokens in (8000, 30000, 120000)
        for pp in depths
    ]
    table = []
    for load in loads:
        simulated = over_seeds(pool, load, PREDICTED_SEEDS)
        name = "ttft_ms" if load.load == "prompt" else "tok_s"
        found = simulated[name]
        fast, slow = min(ratios), max(ratios)
        low, high = (
            (found.least / slow, found.most / fast) if name == "tok_s" else (found.least * fast, found.most * slow)
        )
        table.append([load.name, f"PP{load.pp}", NAMES[name], f"{found.mean:.0f}", f"{low:.0f} to {high:.0f}"])
    print_table(["load", "PP", "figure", "simulated", "range"], table)


def main() -> None:
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        print("Measured against simulated, shape of Qwen2.5-32B\n")
        ratios = compare(pool, read_rows())
        print("\nPredictions for H200s, `balanced`, captured steps\n")
        predict(pool, (8, 16), ratios)


if __name__ == "__main__":
    main()
