"""Read result files of `gllm bench` and `gllm simulate`, and make one table of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

SIMULATION = "simulation"
"""`backend` of a result of `gllm simulate`."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run: a point of a curve. Latencies are in milliseconds."""

    label: str
    """Name of the curve."""
    panel: str = ""
    """Runs of different panels are not comparable: another workload or another shape."""
    simulated: bool = False
    rate: float | None
    """Requests per second; None if they were not sent at a rate."""
    concurrency: int | None
    output_throughput: float
    total_throughput: float
    ttft: float
    ttft_p99: float
    tpot: float
    tpot_p99: float
    e2el: float
    e2el_p99: float
    attainment: float | None
    """Share of the requests, failed ones too, that met the bounds of --goodput; None without bounds."""
    failed: int = 0

    @property
    def load(self) -> str:
        if self.rate is not None:
            return f"{self.rate:.3g}/s"
        return "burst" if self.concurrency is None else f"{self.concurrency} in flight"


def read_points(paths: Sequence[Path]) -> list[Point]:
    """Return the runs of all files. A file has one JSON object, a list of them, or one a line. Raises ValueError."""
    return [point_of(result, path) for path in paths for result in _results(path)]


def point_of(result: dict[str, Any], path: Path) -> Point:
    """Return the point of one result; its steady window if it has one. Raises ValueError."""
    simulated = result.get("backend") == SIMULATION
    steady = result.get("steady")
    figures = steady if isinstance(steady, dict) else result
    rate = result.get("request_rate")
    try:
        return Point(
            label=result.get("label") or result.get("policy") or path.stem,
            panel=result.get("panel") or result.get("trace") or result.get("workload") or "",
            simulated=simulated,
            rate=float(rate) if rate not in (None, "inf", "trace") else None,
            concurrency=result.get("max_concurrency"),
            output_throughput=figures["output_throughput"],
            total_throughput=figures["total_token_throughput"],
            ttft=figures["mean_ttft_ms"],
            ttft_p99=figures["p99_ttft_ms"],
            tpot=figures["mean_tpot_ms"],
            tpot_p99=figures["p99_tpot_ms"],
            e2el=figures["mean_e2el_ms"],
            e2el_p99=figures["p99_e2el_ms"],
            attainment=attainment(figures),
            failed=figures["failed"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no result of `gllm bench` or `gllm simulate`: {error!r}") from None


def attainment(figures: dict[str, Any]) -> float | None:
    """Return the share of the requests that met the bounds of --goodput."""
    goodput, throughput = figures.get("request_goodput"), figures["request_throughput"]
    if goodput is None:
        return None
    completed, failed = figures["completed"], figures["failed"]
    return float(goodput / throughput * completed / (completed + failed)) if throughput else 0.0


def _results(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path} is neither JSON nor JSON lines: {error}") from None
    for result in found if isinstance(found, list) else [found]:
        if not isinstance(result, dict):
            raise ValueError(f"{path} has something else than the objects of results")
        yield result


def ordered(points: Sequence[Point]) -> list[Point]:
    """Return the points by panel and curve in the order of the files, and by load within a curve."""
    curves = {key: number for number, key in enumerate(dict.fromkeys(map(_curve, points)))}
    panels = {name: number for number, name in enumerate(dict.fromkeys(point.panel for point in points))}
    return sorted(
        points,
        key=lambda point: (panels[point.panel], curves[_curve(point)], point.rate or 0.0, point.concurrency or 0),
    )


def _curve(point: Point) -> tuple[str, str, bool]:
    return point.panel, point.label, point.simulated


COLUMNS = (
    *("", "requests", "load", "out tok/s", "total tok/s", "TTFT mean/p99 ms", "TPOT mean/p99 ms", "E2EL mean/p99 ms"),
    *("SLO met", "failed"),
)


def rows(points: Sequence[Point]) -> list[list[str]]:
    """Return a row of COLUMNS for each point."""
    return [
        [
            f"{point.label} (simulated)" if point.simulated else point.label,
            point.panel,
            point.load,
            f"{point.output_throughput:.1f}",
            f"{point.total_throughput:.1f}",
            f"{point.ttft:.0f}/{point.ttft_p99:.0f}",
            f"{point.tpot:.1f}/{point.tpot_p99:.1f}",
            f"{point.e2el:.0f}/{point.e2el_p99:.0f}",
            "" if point.attainment is None else f"{100 * point.attainment:.0f} %",
            str(point.failed) if point.failed else "",
        ]
        for point in ordered(points)
    ]


def markdown(points: Sequence[Point]) -> str:
    """Return the table for a document."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows(points)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
