"""The figures of a run: the figures of `gllm bench`, and figures that only a simulation has."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gllm.apps.bench.report import Spread, Summary, summarize
from gllm.apps.simulate.simulation import Outcome


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one run; times are simulated."""

    summary: Summary
    steady_throughput: float
    """Tokens a second, prompts and outputs, of the middle of the run (see `steady_throughput`)."""
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


def steady_throughput(outcome: Outcome, start: float, end: float) -> float:
    """Return the tokens per second between two times; a prompt's tokens count when its first output token comes.

    Between the fill of the pipeline and the drain at the end this is the capacity of the system. A rate over the whole
    run depends mostly on the longest answers of the last requests.
    """
    tokens = 0.0
    for record in outcome.records:
        for index, (seconds, count) in enumerate(record.pieces):
            if start <= record.start + seconds < end:
                tokens += count + (record.prompt_tokens if index == 0 else 0)
    return tokens / (end - start)


def figures_of(outcome: Outcome, goodput: dict[str, float] | None = None) -> Figures:
    """Return all figures. The steady throughput covers the last three fifths of the time of arrivals.

    If all requests arrive at once, it covers the whole run.
    """
    mean, deviation = outcome.tokens
    last = max(record.start for record in outcome.records)
    start, end = (0.4 * last, last) if last > 0.0 else (0.0, max(outcome.duration, 1e-9))
    return Figures(
        summary=summarize(outcome.records, outcome.duration, goodput),
        steady_throughput=steady_throughput(outcome, start, end),
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
    summary = values.pop("summary")
    for name in ("ttft", "tpot", "itl", "e2el"):
        for statistic, value in summary.pop(name).items():
            summary[f"{statistic}_{name}_ms"] = value
    return {**settings, **summary, **values, "tokens_cv": figures.tokens_cv}


COLUMNS = (
    "tok/s", "steady tok/s", "TTFT mean/p50/p99 ms", "TPOT mean/p50/p99 ms", "E2EL mean/p50/p99 ms", "bubble",
    "tokens a micro-batch mean/std/CV", "time CV", "preempted",
)  # fmt: skip


def cells(figures: Figures) -> list[str]:
    """Return a row of COLUMNS."""
    summary = figures.summary
    return [
        f"{summary.total_token_throughput:.0f}",
        f"{figures.steady_throughput:.0f}",
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
