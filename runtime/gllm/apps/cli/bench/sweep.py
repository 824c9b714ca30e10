"""`gllm bench sweep`: the same requests at several loads."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from gllm.apps.bench.compare import COLUMNS, Point, attainment, point_of, rows
from gllm.apps.bench.saturation import highest_rate, keeps_up, worthwhile_concurrency
from gllm.apps.bench.window import ENOUGH_REQUESTS
from gllm.apps.cli.bench.data_flags import DataFlags
from gllm.apps.cli.bench.load_flags import LoadFlags
from gllm.apps.cli.bench.report_flags import ReportFlags
from gllm.apps.cli.bench.run import Target, find_target
from gllm.apps.cli.bench.style_flags import StyleFlags
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.flag_groups import takes_groups
from gllm.terminal import print_table

_LEVEL_SEED = 7919
"""Added to the seed for each level: with the same prompts a prefix cache would make later levels easy."""
_LEAST = 20
"""Fewest requests of a level."""


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Load", **settings)


@dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """The loads."""

    request_rates: Annotated[str, _option("--request-rates", help="Requests per second: 1,2,4,8.")] = ""
    concurrencies: Annotated[
        str, _option("--concurrencies", help="Requests in flight under steady load: 1,4,16,64.")
    ] = ""
    search: Annotated[
        Literal["rate", "concurrency"] | None,
        _option(
            "--search",
            help="rate: the highest rate that the server keeps up with (with --goodput: within the bounds). "
            "concurrency: where doubling it gains less than 5 % of throughput.",
        ),
    ] = None
    start: Annotated[float, _option("--start", min=0.01, help="The first rate or concurrency of --search.")] = 1.0
    slo_attainment: Annotated[
        float, _option("--slo-attainment", min=0.01, max=1.0, help="Share of requests within the bounds of --goodput.")
    ] = 0.9
    level_seconds: Annotated[float, _option("--level-seconds", min=1.0, help="Seconds of arrivals at each rate.")] = (
        30.0
    )
    num_prompts: Annotated[
        int | None,
        _option(
            "--num-prompts",
            min=1,
            help="Requests of each level.",
            show_default="those of --level-seconds, or 2.5 for each one in flight; at least 20",
        ),
    ] = None
    burstiness: Annotated[float, _option("--burstiness", min=1e-3, help="Of the arrivals at a rate.")] = 1.0
    seed: Annotated[int, _option("--seed", help="The same seed sends the same requests.")] = 0

    def check(self) -> None:
        """Raise ValueError unless exactly one kind of sweep is asked for."""
        given = [bool(self.request_rates), bool(self.concurrencies), self.search is not None]
        if sum(given) != 1:
            raise ValueError("gllm bench sweep needs one of --request-rates 1,2,4, --concurrencies 1,4,16 and --search")

    def level(self, number: int, *, rate: float | None = None, concurrency: int | None = None) -> LoadFlags:
        """Return the load of a level."""
        seed = self.seed + number * _LEVEL_SEED
        if rate is not None:
            count = self.num_prompts or max(math.ceil(rate * self.level_seconds), _LEAST)
            return LoadFlags(num_prompts=count, request_rate=f"{rate:g}", burstiness=self.burstiness, seed=seed)
        assert concurrency is not None
        count = max(self.num_prompts or _LEAST, math.ceil(ENOUGH_REQUESTS * concurrency))
        return LoadFlags(num_prompts=count, steady=True, max_concurrency=concurrency, seed=seed)


class _Sweep:
    """Runs levels and keeps their results."""

    def __init__(self, target: Target, data: DataFlags, figures: ReportFlags, flags: SweepFlags) -> None:
        self._target, self._flags, self._figures = target, flags, figures
        self._dataset = data.dataset()
        self.points: list[Point] = []

    def _run(self, load: LoadFlags) -> tuple[dict[str, Any], bool]:
        plan = load.plan(self._dataset)
        requests = self._target.requests(self._dataset, plan)
        records, duration = self._target.run(requests, load.max_concurrency)
        settings = {**self._target.settings(self._dataset), **load.settings(), "num_prompts": len(requests)}
        result = self._figures.write_result(records, duration, settings, load=plan.steady)
        point = point_of(result, self._figures.output_or("sweep"))
        self.points.append(point)
        print(
            f"gllm: {point.load}: {point.output_throughput:.1f} output tok/s, TTFT {point.ttft:.0f} ms, "
            f"TPOT {point.tpot:.1f} ms" + ("" if point.attainment is None else f", SLO met {point.attainment:.0%}"),
            file=sys.stderr,
        )
        return result, keeps_up(records)

    def rate(self, rate: float) -> bool:
        """Run a rate; return whether the server holds it."""
        result, up = self._run(self._flags.level(len(self.points), rate=rate))
        met = attainment(result)
        return up if met is None else met >= self._flags.slo_attainment

    def concurrency(self, concurrency: int) -> float:
        """Run a closed loop; return its output throughput."""
        self._run(self._flags.level(len(self.points), concurrency=concurrency))
        return self.points[-1].output_throughput


@takes_groups
def sweep(server: StyleFlags, data: DataFlags, loads: SweepFlags, figures: ReportFlags) -> None:
    """Measure a server at several loads: rates, a ladder of concurrencies, or a search for its saturation."""
    with errors_in_one_line():
        figures.check()
        loads.check()
        runs = _Sweep(asyncio.run(find_target(server)), data, figures, loads)
        found = ""
        for rate in _numbers("--request-rates", loads.request_rates):
            runs.rate(rate)
        for concurrency in _numbers("--concurrencies", loads.concurrencies):
            runs.concurrency(max(round(concurrency), 1))
        if loads.search == "rate":
            highest = highest_rate(runs.rate, loads.start)
            bound = (
                f"{loads.slo_attainment:.0%} of the requests within the bounds" if figures.goodput else "no queue grows"
            )
            found = f"saturation: {highest:.3g} requests/s ({bound})" if highest else "no rate holds"
        elif loads.search == "concurrency":
            most = worthwhile_concurrency(runs.concurrency, max(round(loads.start), 1))
            found = f"saturation: {most} requests in flight; twice as many gain less than 5 % of throughput"
    print_table(COLUMNS, rows(runs.points))
    if found:
        print(found)
    if any(point.failed for point in runs.points):
        raise typer.Exit(1)


def _numbers(flag: str, text: str) -> list[float]:
    """Parse "1,2,4". Raises ValueError, which names the flag."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [-1.0]
    if not all(0 < number < math.inf for number in found):
        raise ValueError(f"{flag} must look like 1,2,4, not {text!r}")
    return found
