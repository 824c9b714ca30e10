"""The comparison of the gLLM paper in one command: policies x rates x traces x pipeline shapes.

    make paper                                          # on the GPUs that are there, else on the CPU: 15 minutes
    python benchmarks/paper.py --minutes 5 --traces cpu --policies balanced chunked_prefill --shapes pp2

For each shape a server with `--trace` is measured first: idle, which sets the bounds of TTFT and TPOT, and under steady
load, which sets the rates. The simulator's pipeline is fitted to that server's trace file. Then each policy serves the
same requests at the same rates, and the simulator predicts each of these runs. Results, plots and the page go to
docs/paper; `gllm bench compare docs/paper/results.jsonl` prints the table again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from gllm.apps.bench import report
from gllm.apps.bench.client import Endpoint
from gllm.apps.bench.compare import SIMULATION, point_of, rows
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.serving import find_model, run_requests
from gllm.apps.bench.steady import SteadyLoad, measure_steady
from gllm.apps.bench.workloads import WORKLOADS, Lengths, Workload, make_requests
from gllm.apps.simulate import figures
from gllm.apps.simulate.fit import fit_trace
from gllm.apps.simulate.hardware import Hardware
from gllm.apps.simulate.simulation import Simulation
from gllm.config import POLICY_NAMES, EngineConfig
from paper_page import write_page
from paper_places import Shape, parse_shape, place_here
from servers import Server

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "paper"
POLICIES = ("balanced", "token_throttling", "chunked_prefill")
LOADS = (0.5, 0.8, 1.1)
"""Rates, as shares of the capacity."""
TTFT_BOUND, TPOT_BOUND = 10.0, 3.0
"""Bounds of a request, as multiples of the idle server's means."""
IDLE_REQUESTS = 6
LEAST_SECONDS = 2.0
"""Of arrivals in a run."""
DRAIN = 1.7
"""Seconds of a run for each second of arrivals: the highest rate is above the capacity, so its queue must drain."""

Serve = Callable[[Shape, str, Path | None], AbstractContextManager[str]]
"""Serve with a policy, and with a trace file if one is given; the context is the URL."""


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    policies: Sequence[str] = POLICIES
    loads: Sequence[float] = LOADS
    traces: Sequence[str]
    shapes: Sequence[Shape]
    minutes: float
    """About how long everything may take."""
    divisor: int
    """Lengths are those of the traces, divided by this."""
    concurrency: int
    """Requests in flight when the capacity is measured."""
    max_model_len: int
    max_num_seqs: int
    kv_tokens: int
    least: int = 8
    """Fewest requests of a run."""
    seed: int = 0


class Scale(msgspec.Struct, frozen=True):
    """What the first server of a shape did on one trace."""

    capacity: float
    """Requests per second under steady load."""
    bounds: dict[str, float]
    """Of TTFT and TPOT, in milliseconds."""


def run_grid(
    grid: Grid, serve: Serve, folder: Path, write: Callable[[dict[str, Any]], None], say: Callable[[str], None] = print
) -> None:
    """Measure and predict everything; `write` takes each result.

    Args:
        folder: for trace files.
        say: takes a line about each run.
    """
    end = time.monotonic() + 60 * grid.minutes
    for number, shape in enumerate(grid.shapes):
        # What is left of the time, shared among the shapes that are left.
        shape_ends = time.monotonic() + (end - time.monotonic()) / (len(grid.shapes) - number)
        started = time.monotonic()
        trace_file = folder / f"{shape.name}.trace.json"
        with serve(shape, grid.policies[0], trace_file) as url:
            start_seconds = time.monotonic() - started
            scales = {trace: measure_scale(grid, url, trace) for trace in grid.traces}
        hardware, errors = fit_trace(trace_file, grid.kv_tokens)
        rest = shape_ends - time.monotonic() - len(grid.policies) * start_seconds
        runs = len(grid.policies) * len(grid.traces) * len(grid.loads)
        seconds = max(rest / runs / DRAIN, LEAST_SECONDS)
        fitted = ", ".join(f"{error:.0%}" for error in errors)
        say(f"{shape.name}: fitted, mean relative error {fitted}; {runs} runs of {seconds:.0f} s of arrivals")
        for policy in grid.policies:
            with serve(shape, policy, None) as url:
                for trace in grid.traces:
                    for load in grid.loads:
                        one = _Run(grid, shape, policy, trace, load, scales[trace], seconds)
                        for result in (one.measure(url), one.predict(hardware)):
                            write(result)
                            say(" ".join(rows([point_of(result, folder)])[0]))


def workload_of(grid: Grid, trace: str) -> Workload:
    """Return a trace with its lengths divided."""
    workload = WORKLOADS[trace]
    if grid.divisor == 1:
        return workload
    prompt, output = (
        Lengths(lengths.mean / grid.divisor, lengths.sigma, lengths.most // grid.divisor)
        for lengths in (workload.prompt, workload.output)
    )
    return msgspec.structs.replace(workload, name=f"{trace}/{grid.divisor}", prompt=prompt, output=output)


def measure_scale(grid: Grid, url: str, trace: str) -> Scale:
    """Measure an idle server, then one under steady load."""

    def draw(count: int, seed: int) -> list[BenchRequest]:
        return make_requests(workload_of(grid, trace), count, seed=seed, max_model_len=grid.max_model_len)

    _send(url, draw(grid.concurrency, grid.seed + 1), grid.concurrency)  # warm-up
    idle, seconds = _send(url, draw(IDLE_REQUESTS, grid.seed + 2), 1)
    alone = report.summarize(idle, seconds)
    busy, _ = _send(url, draw(math.ceil(2.5 * grid.concurrency), grid.seed + 3), grid.concurrency)
    capacity = measure_steady(busy, SteadyLoad(concurrency=grid.concurrency)).summary.request_throughput
    bounds = {"ttft": TTFT_BOUND * alone.ttft.mean, "tpot": TPOT_BOUND * alone.tpot.mean}
    return Scale(capacity, bounds)


class _Run:
    """One policy at one rate: measured, and predicted from the same requests."""

    def __init__(
        self, grid: Grid, shape: Shape, policy: str, trace: str, load: float, scale: Scale, seconds: float
    ) -> None:
        self._grid, self._policy, self._scale = grid, policy, scale
        self._rate = load * scale.capacity
        count = max(math.ceil(self._rate * seconds), grid.least)
        self._requests = make_requests(
            workload_of(grid, trace), count, seed=grid.seed, rate=self._rate, max_model_len=grid.max_model_len
        )
        self._settings = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "label": policy,
            "panel": f"{workload_of(grid, trace).name}, {shape.name}",
            "policy": policy,
            "trace": trace,
            "shape": shape.name,
            "load": load,
            "request_rate": self._rate,
            "max_concurrency": None,
            "num_prompts": count,
            "seed": grid.seed,
            "goodput_bounds": scale.bounds,
        }

    def measure(self, url: str) -> dict[str, Any]:
        records, seconds = _send(url, self._requests, None)
        summary = report.summarize(records, seconds, self._scale.bounds)
        return report.as_json(summary, {"backend": "openai-completions", **self._settings})

    def predict(self, hardware: Hardware) -> dict[str, Any]:
        engine = {
            "model": "",
            "policy": self._policy,
            "enable_prefix_caching": False,
            "max_model_len": self._grid.max_model_len,
            "max_num_seqs": self._grid.max_num_seqs,
        }
        config = msgspec.convert(engine, EngineConfig)
        outcome = Simulation(config, hardware, self._requests, seed=self._grid.seed).run()
        found = figures.figures_of(outcome, self._scale.bounds)
        return figures.as_json(found, {"backend": SIMULATION, **self._settings})


def _send(url: str, requests: Sequence[BenchRequest], concurrency: int | None) -> tuple[Any, float]:
    async def work() -> tuple[Any, float]:
        endpoint = Endpoint.from_url(url)
        served = await find_model(endpoint)
        endpoint = msgspec.structs.replace(endpoint, model=served.name)
        return await run_requests(endpoint, requests, max_concurrency=concurrency)

    return asyncio.run(work())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="about how long everything may take")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICY_NAMES)
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS), help="rates, as shares of the capacity")
    parser.add_argument("--traces", nargs="+", choices=sorted(WORKLOADS), help="default: what fits the machine")
    parser.add_argument("--shapes", nargs="+", type=parse_shape, help="such as pp2 tp2pp2; default: what fits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    started = time.monotonic()
    with TemporaryDirectory(prefix="gllm-paper-") as name:
        place = place_here(Path(name))
        traces, shapes = options.traces or place.traces, options.shapes or place.shapes
        grid = Grid(
            policies=options.policies,
            loads=options.loads,
            traces=traces,
            shapes=shapes,
            minutes=options.minutes,
            concurrency=place.concurrency,
            max_model_len=place.max_model_len,
            max_num_seqs=place.max_num_seqs,
            divisor=place.divisor,
            kv_tokens=place.kv_tokens,
            seed=options.seed,
        )
        print(place.about, flush=True)

        @contextmanager
        def serve(shape: Shape, policy: str, trace: Path | None) -> Iterator[str]:
            command = place.command(shape, policy, trace)
            with Server(command, Path(name) / f"{shape.name}-{policy}.log"):
                yield command.url

        options.output.mkdir(parents=True, exist_ok=True)
        results: list[dict[str, Any]] = []
        with (options.output / "results.jsonl").open("w") as file:

            def write(result: dict[str, Any]) -> None:
                results.append(result)
                print(json.dumps(result), file=file, flush=True)  # an interrupted comparison keeps its runs

            run_grid(grid, serve, Path(name), write, lambda line: print(line, flush=True))
    others = f"load average at the end {os.getloadavg()[1]:.1f}"
    write_page(results, options.output, about=f"{place.about}; {others}", minutes=(time.monotonic() - started) / 60)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
