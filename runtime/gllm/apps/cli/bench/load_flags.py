"""The flags that choose how many requests are sent, and when."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from gllm.apps.bench.arrivals import Arrivals, RampUp, parse_stages
from gllm.apps.bench.datasets.item import DEFAULT_COUNT
from gllm.apps.bench.datasets.load import Dataset
from gllm.apps.bench.steady import SteadyFigures, SteadyLoad, plan_steady
from gllm.apps.bench.window import default_requests

TRACE = "trace"
"""The value of --request-rate for the arrivals of the data set."""
_SPARE = 1.3
"""Requests that are ready for --max-duration, for each one that is expected in it."""


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Load", **settings)


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What LoadFlags ask for."""

    count: int | None
    """Requests; None: as many as the data set has."""
    arrivals: Arrivals | None
    """None: the data set's own."""
    steady: SteadyLoad | None
    seed: int

    def times(self, count: int) -> list[float]:
        assert self.arrivals is not None
        return self.arrivals.times(count, self.seed)


@dataclass(frozen=True, kw_only=True)
class LoadFlags:
    """Number and times of the requests."""

    num_prompts: Annotated[
        int | None,
        _option(
            "--num-prompts",
            min=1,
            help="Requests to send.",
            show_default="the workload's; a data set's, up to 1000; with --steady enough for it",
        ),
    ] = None
    request_rate: Annotated[
        str,
        _option(
            "--request-rate",
            help="Requests per second, Poisson arrivals; inf: all at once; trace: as in --dataset-name azure.",
        ),
    ] = "inf"
    burstiness: Annotated[
        float,
        _option(
            "--burstiness",
            min=1e-3,
            help="Shape of the gaps' gamma distribution: 1 is Poisson, below 1 comes in bursts, above 1 more evenly.",
        ),
    ] = 1.0
    ramp_up_strategy: Annotated[
        RampUp | None, _option("--ramp-up-strategy", help="Raise the rate over the requests of the run.")
    ] = None
    ramp_up_start_rps: Annotated[float, _option("--ramp-up-start-rps", min=0.0, help="The rate at the start.")] = 0.0
    ramp_up_end_rps: Annotated[float, _option("--ramp-up-end-rps", min=0.0, help="The rate at the end.")] = 0.0
    rate_stages: Annotated[
        str, _option("--rate-stages", help="Rates one after the other, each with its seconds: 2:30,8:60,2:30.")
    ] = ""
    steady: Annotated[
        bool,
        _option(
            "--steady",
            help="Keep --max-concurrency requests in flight, and measure from 20 % of the requests ended to the last "
            "one sent: no ramp, no tail.",
        ),
    ] = False
    max_concurrency: Annotated[
        int | None, _option("--max-concurrency", min=1, help="Most requests in flight; the rest wait in the client.")
    ] = None
    seed: Annotated[int, _option("--seed", help="The same seed sends the same requests.")] = 0

    def plan(self, dataset: Dataset, max_duration: float = math.inf) -> LoadPlan:
        """Return the load of a run on a data set. Raises ValueError, which names the flag."""
        arrivals = self.arrivals()
        count = self.num_prompts or dataset.default_count()
        load = None
        if self.steady:
            if arrivals is None or not arrivals.at_once:
                given = f"--request-rate {self.request_rate}" if self.request_rate != "inf" else "the ramp or stages"
                raise ValueError(f"--steady sends a request when another one ends: leave out {given}, or --steady")
            count = self.num_prompts or default_requests(count or DEFAULT_COUNT, self.max_concurrency or 0)
            load = plan_steady(count, self.max_concurrency)
            _warn(load.warning)
        elif arrivals is not None and arrivals.stages:
            expected = arrivals.count_of_stages(self.seed)
            if not expected:
                raise ValueError(f"--rate-stages {self.rate_stages} has no request: raise its seconds")
            count = min(self.num_prompts or expected, expected)
        elif self.num_prompts is None and math.isfinite(max_duration) and arrivals is not None:
            rate = max(arrivals.rate if not arrivals.ramp else 0.0, arrivals.start, arrivals.end)
            count = math.ceil(_SPARE * rate * max_duration) + 10 if math.isfinite(rate) else count
        return LoadPlan(count=count, arrivals=arrivals, steady=load, seed=self.seed)

    def arrivals(self) -> Arrivals | None:
        """Return the process of arrivals; None for the data set's own. Raises ValueError, which names the flag."""
        shapes = {
            "--request-rate": self.request_rate != "inf",
            "--ramp-up-strategy": self.ramp_up_strategy is not None,
            "--rate-stages": bool(self.rate_stages),
        }
        chosen = [name for name, given in shapes.items() if given]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} both say when requests are sent: leave one out")
        if self.burstiness != 1.0 and (not chosen or self.request_rate == TRACE):
            raise ValueError("--burstiness is for drawn arrivals: add --request-rate, such as --request-rate 4")
        ramp = self.ramp_up_strategy
        if (self.ramp_up_start_rps or self.ramp_up_end_rps) and ramp is None:
            raise ValueError("--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy linear or exponential")
        if ramp is not None and not (self.ramp_up_start_rps and self.ramp_up_end_rps):
            raise ValueError(f"--ramp-up-strategy {ramp} needs --ramp-up-start-rps and --ramp-up-end-rps, both above 0")
        if self.request_rate == TRACE:
            return None
        return Arrivals(
            rate=parse_rate(self.request_rate),
            burstiness=self.burstiness,
            ramp=ramp,
            start=self.ramp_up_start_rps,
            end=self.ramp_up_end_rps,
            stages=parse_stages(self.rate_stages) if self.rate_stages else (),
        )

    def settings(self) -> dict[str, Any]:
        """Return the fields of a result file; those of unused shapes are left out."""
        rate = self.request_rate
        found: dict[str, Any] = {
            "request_rate": rate if rate in ("inf", TRACE) else parse_rate(rate),
            "max_concurrency": self.max_concurrency,
            "seed": self.seed,
        }
        if self.burstiness != 1.0:
            found["burstiness"] = self.burstiness
        if self.ramp_up_strategy is not None:
            found |= {
                "ramp_up_strategy": self.ramp_up_strategy,
                "ramp_up_start_rps": self.ramp_up_start_rps,
                "ramp_up_end_rps": self.ramp_up_end_rps,
            }
        if self.rate_stages:
            found["rate_stages"] = self.rate_stages
        return found


def parse_rate(text: str) -> float:
    """Parse `inf` or a number of requests per second."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not rate > 0:
        raise typer.BadParameter(f"must be a number above 0, inf or trace; not {text!r}", param_hint="--request-rate")
    return rate


def warn_of_window(figures: SteadyFigures, load: SteadyLoad) -> None:
    """Print the warning that only the run has shown."""
    if figures.warning != load.warning:
        _warn(figures.warning)


def _warn(warning: str) -> None:
    if warning:
        print(f"gllm: warning: {warning}", file=sys.stderr)
