"""The page of the paper's comparison: a table of measured and simulated figures, and plots."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gllm.apps.bench.compare import Point, ordered, point_of
from gllm.apps.bench.plots import plot_attainment, plot_by_rate, plot_latencies

_FIGURES: tuple[tuple[str, Callable[[Point], float | None], str], ...] = (
    ("output tok/s", lambda point: point.output_throughput, ".1f"),
    ("mean TTFT ms", lambda point: point.ttft, ".0f"),
    ("p99 TTFT ms", lambda point: point.ttft_p99, ".0f"),
    ("mean TPOT ms", lambda point: point.tpot, ".1f"),
    ("mean E2EL ms", lambda point: point.e2el, ".0f"),
    ("SLO met %", lambda point: None if point.attainment is None else 100 * point.attainment, ".0f"),
)


_PAGE = """\
# The paper's comparison

`make paper` wrote this page. Each policy serves the same requests at the same rates, and the simulator, fitted to a
trace file of the same server, predicts each run.

{about}. {moment}, {minutes} minutes.

The rates are shares of the capacity of the first policy under steady load. The bounds (SLO) are ten times the TTFT and
three times the TPOT of an idle server:

{bounds}

![Throughput and latencies against the rate](rate.png)

![Latencies against throughput](latency.png)

![Requests within the bounds against the rate](attainment.png)

Measured figures, and in brackets the simulated ones:

{table}

{errors}

[results.jsonl](results.jsonl) has all runs; `gllm bench compare docs/paper/results.jsonl` prints them.
"""


def write_page(results: Sequence[dict[str, Any]], folder: Path, *, about: str, minutes: float) -> None:
    """Write README.md and the plots into `folder`."""
    points = [point_of(result, folder) for result in results]
    plot_by_rate(points, folder / "rate.png")
    plot_latencies(points, folder / "latency.png")
    plot_attainment(points, folder / "attainment.png")
    bounds = {result["panel"]: result["goodput_bounds"] for result in results}
    page = _PAGE.format(
        about=about,
        moment=time.strftime("%Y-%m-%d %H:%M"),
        minutes=f"{minutes:.0f}",
        bounds="\n".join(
            f"* {panel}: TTFT {bound['ttft']:.0f} ms, TPOT {bound['tpot']:.0f} ms" for panel, bound in bounds.items()
        ),
        table="\n".join(table(points)),
        errors="\n".join(errors(points)),
    )
    (folder / "README.md").write_text(page)


def table(points: Sequence[Point]) -> list[str]:
    """Return a row for each measured run, with the simulated figures in brackets."""
    simulated = {_key(point): point for point in points if point.simulated}
    heads = ["requests", "policy", "rate", *(name for name, _, _ in _FIGURES)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for point in ordered([point for point in points if not point.simulated]):
        other = simulated.get(_key(point))
        cells = [point.panel, point.label, point.load]
        for _, value, form in _FIGURES:
            here, there = value(point), value(other) if other else None
            cells.append("-" if here is None else format(here, form))
            if there is not None:
                cells[-1] += f" ({there:{form}})"
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def errors(points: Sequence[Point]) -> list[str]:
    """Return the median relative errors of the simulated figures."""
    simulated = {_key(point): point for point in points if point.simulated}
    lines = ["Median error of the simulated figures over all runs:", ""]
    for name, value, _ in _FIGURES[:-1]:
        off = []
        for point in points:
            other = simulated.get(_key(point))
            here, there = value(point), value(other) if other else None
            if not point.simulated and here and there:
                off.append(abs(there / here - 1))
        lines.append(f"* {name}: {100 * median(off):.0f} %" if off else f"* {name}: not known")
    return lines


def _key(point: Point) -> tuple[str, str, float | None]:
    return point.panel, point.label, point.rate
