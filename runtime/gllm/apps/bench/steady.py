"""The figures of a steady run: of the window alone, and the share of the roofline if the GPUs are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gllm.apps.bench import report
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.roofline import Gpus, Roofline, roofline
from gllm.apps.bench.window import Window, check_requests, mean_in_flight, steady_window

NONE_INSIDE = (
    "no request has both its first token and its end in the window, so TPOT and goodput are not known: "
    "set --num-prompts to more"
)


class SteadyLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop that is about to run."""

    concurrency: int
    gpus: Gpus | None = None
    """What serves the model, for the share of the roofline."""
    warning: str = ""
    """Why the window will be short."""


class SteadyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of the window of one run."""

    window: Window
    concurrency: int
    mean_in_flight: float
    summary: report.Summary
    roofline: Roofline | None
    warning: str


def plan_steady(num_prompts: int, concurrency: int | None) -> SteadyLoad:
    """Return a closed loop of `num_prompts` requests. Raises ValueError if it could not be measured."""
    if concurrency is None:
        raise ValueError(
            "--steady needs --max-concurrency: the number of requests to keep in flight, such as --max-concurrency 64"
        )
    return SteadyLoad(concurrency=concurrency, warning=check_requests(num_prompts, concurrency))


def measure_steady(
    records: Sequence[RequestRecord],
    load: SteadyLoad,
    goodput: dict[str, float] | None = None,
    percentiles: Sequence[float] = (),
) -> SteadyFigures:
    """Return the figures of a run's window. Raises ValueError if the window is empty."""
    window = steady_window(records)
    summary = report.summarize(records, window.duration, goodput, window, percentiles)
    inside = any(window.holds(record.first_token) and window.holds(record.end) for record in records)
    return SteadyFigures(
        window=window,
        concurrency=load.concurrency,
        mean_in_flight=mean_in_flight(records, window),
        summary=summary,
        roofline=roofline(records, window, load.concurrency, load.gpus) if load.gpus is not None else None,
        warning=load.warning or ("" if inside else NONE_INSIDE),
    )


def steady_json(figures: SteadyFigures) -> dict[str, Any]:
    """Return the window and its figures, under the keys of the whole run's."""
    roof = figures.roofline
    return {
        "window_start": figures.window.start,
        "window_end": figures.window.end,
        "concurrency": figures.concurrency,
        "mean_in_flight": figures.mean_in_flight,
        "warning": figures.warning,
        **report.flat(figures.summary),
        "roofline": None if roof is None else {**msgspec.to_builtins(roof), "share": roof.share},
    }


def steady_rows(figures: SteadyFigures) -> list[report.Row]:
    """Return the rows that a steady run adds to the table of `report`."""
    added: list[report.Row] = [
        ("Maximum request concurrency", figures.concurrency),
        ("Mean requests in flight", figures.mean_in_flight),
        ("Window starts at (s)", figures.window.start),
        ("Window ends at (s)", figures.window.end),
    ]
    roof = figures.roofline
    if roof is not None:
        added += [
            ("Compute per GPU (TFLOP/s)", roof.flops / 1e12),
            ("Share of peak compute (%)", 100 * roof.compute_share),
            ("Least memory traffic per GPU (TB/s)", roof.bandwidth / 1e12),
            ("Share of peak bandwidth (%)", 100 * roof.bandwidth_share),
        ]
    return added
