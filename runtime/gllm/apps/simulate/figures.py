"""The figures of a run: the figures of `gllm bench`, and figures that only a simulation has."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gllm.apps.bench.report import Spread, Summary, flat, summarize
from gllm.apps.bench.steady import SteadyFigures, SteadyLoad, measure_steady, steady_json
from gllm.apps.bench.window import Window, tokens_in
from gllm.apps.simulate.simulation import Outcome


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one run; times are simulated."""

    summary: Summary
    """Of the whole run, or of the window of a closed loop."""
    steady: SteadyFigures | None
    """Of a closed loop."""
    steady_throughput: float
    """Tokens a second, prompts and outputs, of the middle of the run (see `figures_of`)."""
    bubble: float
    """Share of the time with a micro-batch in flight in which a stage is idle; mean over the stages."""
    microbatches: int
    tokens_mean: float
    """Tokens of a micro-batch."""
    tokens_std: float
    time_cv: float
    """Coefficient of variation of a micro-batch's time on its slowest stage."""
    preemptions: int
    prediction_error: float
    """Relative error of the scheduler's time model at the end."""

    @property
    def tokens_cv(self) -> float:
        return self.tokens_std / self.tokens_mean if self.tokens_mean else 0.0


def figures_of(outcome: Outcome, goodput: dict[str, float] | None = None, load: SteadyLoad | None = None) -> Figures:
    """Return all figures: of the whole run, or of the window of a closed loop (`load`).

    Between the fill of the pipeline and the drain at the end the throughput is the capacity of the system; a rate over
    the whole run depends mostly on the longest answers of the last requests. So for Poisson arrivals the steady
    throughput covers the last three fifths of the time of arrivals. If all requests arrive at once, it covers the whole
    run. Raises ValueError if the window of a closed loop is empty.
    """
    if load is not None:
        steady = measure_steady(outcome.records, load, goodput)
        summary, throughput = steady.summary, steady.summary.total_token_throughput
        outcome = outcome.within(steady.window)
    else:
        steady = None
        summary = summarize(outcome.records, outcome.duration, goodput)
        last = max(record.start for record in outcome.records)
        window = Window(0.4 * last, last) if last > 0.0 else Window(0.0, max(outcome.duration, 1e-9))
        throughput = sum(tokens_in(outcome.records, window)) / window.duration
    mean, deviation = outcome.tokens
    return Figures(
        summary=summary,
        steady=steady,
        steady_throughput=throughput,
        bubble=outcome.bubble,
        microbatches=len(outcome.works),
        tokens_mean=mean,
        tokens_std=deviation,
        time_cv=outcome.time_cv,
        preemptions=outcome.preemptions,
        prediction_error=outcome.prediction_error,
    )


def as_json(figures: Figures, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a flat object with the settings, then the figures under the keys of `gllm bench` (`mean_ttft_ms`, ...)."""
    values = msgspec.to_builtins(figures)
    del values["summary"], values["steady"]
    steady = {} if figures.steady is None else steady_json(figures.steady)
    return {**settings, **flat(figures.summary), **values, "tokens_cv": figures.tokens_cv, **steady}


def columns(load: SteadyLoad | None = None, *, goodput: bool = False) -> list[str]:
    """Return the heads of the table; a steady run has other throughputs. goodput: whether there are bounds for it."""
    rates = ["tok/s", "steady tok/s"]
    if load is not None:
        rates = ["out tok/s", "total tok/s"]
        if load.gpus is not None:
            rates.append("TFLOP/s a GPU (of its peak)")
    if goodput:
        rates.append("goodput req/s")
    return [
        *rates,
        *("TTFT mean/p50/p99 ms", "TPOT mean/p50/p99 ms", "E2EL mean/p50/p99 ms", "bubble"),
        *("tokens a micro-batch mean/std/CV", "time CV", "preempted"),
    ]


def cells(figures: Figures) -> list[str]:
    """Return a row of `columns`."""
    summary = figures.summary
    rates = [summary.total_token_throughput, figures.steady_throughput]
    if figures.steady is not None:
        rates = [summary.output_throughput, summary.total_token_throughput]
    roof = figures.steady.roofline if figures.steady else None
    return [
        *(f"{rate:.0f}" for rate in rates),
        *([] if roof is None else [f"{roof.flops / 1e12:.0f} ({100 * roof.compute_share:.0f} %)"]),
        *([] if summary.request_goodput is None else [f"{summary.request_goodput:.2f}"]),
        _spread(summary.ttft),
        _spread(summary.tpot),
        _spread(summary.e2el),
        f"{100 * figures.bubble:.1f} %",
        f"{figures.tokens_mean:.0f}/{figures.tokens_std:.0f}/{figures.tokens_cv:.2f}",
        f"{figures.time_cv:.2f}",
        str(figures.preemptions),
    ]


def _spread(spread: Spread) -> str:
    return "/".join(
        f"{value:.0f}" if value >= 99.95 or math.isinf(value) else f"{value:.1f}"
        for value in (spread.mean, spread.median, spread.p99)
    )
