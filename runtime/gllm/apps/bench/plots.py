"""Plots of result files: latency against throughput, and the share of requests within the bounds against the rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gllm.apps.bench.compare import Point, ordered
from gllm.apps.figure import pyplot, save

COLOURS = ("#1b7837", "#2166ac", "#b2182b", "#e08214", "#762a83", "#4d4d4d", "#35978f", "#c51b7d")
MARKERS = "osx^Dv*P"

Value = Callable[[Point], float | None]

_LATENCIES: tuple[tuple[str, Value], ...] = (
    ("mean TTFT, ms", lambda point: point.ttft),
    ("mean TPOT, ms", lambda point: point.tpot),
    ("mean E2EL, ms", lambda point: point.e2el),
)


def plot_latencies(points: Sequence[Point], path: Path) -> None:
    """Plot latencies against output throughput: a row for each panel. Simulated points are hollow and dashed."""
    columns = [(label, "output tok/s", _throughput, value) for label, value in _LATENCIES]
    _plot(points, path, columns)


def plot_attainment(points: Sequence[Point], path: Path) -> bool:
    """Plot the share of requests within the bounds against the request rate; return whether there was anything."""
    judged = [point for point in points if point.attainment is not None and point.rate is not None]
    if judged:
        _plot(judged, path, [("requests within the bounds, %", "requests/s", _rate, _percent)], floor=0.0)
    return bool(judged)


def plot_by_rate(points: Sequence[Point], path: Path) -> bool:
    """Plot throughput and latencies against the request rate; return whether there was anything."""
    rated = [point for point in points if point.rate is not None]
    if rated:
        columns: list[tuple[str, str, Value, Value]] = [("output tok/s", "requests/s", _rate, _throughput)]
        columns += [(label, "requests/s", _rate, value) for label, value in _LATENCIES]
        _plot(rated, path, columns)
    return bool(rated)


def _throughput(point: Point) -> float | None:
    return point.output_throughput


def _rate(point: Point) -> float | None:
    return point.rate


def _percent(point: Point) -> float | None:
    return None if point.attainment is None else 100 * point.attainment


def _plot(
    points: Sequence[Point],
    path: Path,
    columns: Sequence[tuple[str, str, Value, Value]],
    floor: float | None = 0.0,
) -> None:
    """Draw a grid: a row for each panel, a column for each (y label, x label, x, y)."""
    plt = pyplot()
    panels = list(dict.fromkeys(point.panel for point in points))
    labels = list(dict.fromkeys(point.label for point in points))
    figure, axes = plt.subplots(
        len(panels), len(columns), figsize=(3.3 * len(columns) + 0.4, 2.6 * len(panels) + 0.6), squeeze=False
    )
    for row, panel in enumerate(panels):
        here = ordered([point for point in points if point.panel == panel])
        for column, (y_label, x_label, x, y) in enumerate(columns):
            axis = axes[row][column]
            for number, label in enumerate(labels):
                for simulated in (False, True):
                    curve = [point for point in here if (point.label, point.simulated) == (label, simulated)]
                    _draw(axis, curve, x, y, number, label)
            axis.set_ylim(bottom=floor)
            axis.set_xlim(left=0)
            axis.set_xlabel(x_label)
            axis.set_ylabel(y_label)
            axis.set_title(panel)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles.update({label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)})
    lines = -(-len(handles) // max(len(columns) * 2, 2))
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=max(len(columns) * 2, 2), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.2 * lines) / figure.get_figheight()))
    save(figure, path)


def _draw(axis: Any, curve: Sequence[Point], x: Value, y: Value, number: int, label: str) -> None:
    """Draw one curve; loads without a value are left out."""
    found = [(across, up) for point in curve if (across := x(point)) is not None and (up := y(point)) is not None]
    if not found:
        return
    simulated = curve[0].simulated
    axis.plot(
        *zip(*found, strict=True),
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        markerfacecolor="none" if simulated else None,
        linestyle="--" if simulated else "-",
        linewidth=1.0,
        label=f"{label}, simulated" if simulated else label,
    )
