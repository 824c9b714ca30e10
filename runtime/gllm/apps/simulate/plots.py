"""Plots of simulations."""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Callable, Sequence
from pathlib import Path

from gllm.apps.figure import pyplot, save
from gllm.apps.simulate.ablation import Mean
from gllm.apps.simulate.goodput import Point
from gllm.apps.simulate.simulation import Outcome

STYLES: dict[str, tuple[str, str]] = {
    "balanced": ("#1b7837", "o"),
    "token_throttling": ("#2166ac", "s"),
    "no_wt": ("#67a9cf", "v"),
    "no_ut": ("#92c5de", "^"),
    "decode_cap": ("#f4a582", "D"),
    "chunked_prefill": ("#b2182b", "x"),
}
"""Colour and marker of each policy."""


def plot_ablation(means: Sequence[Mean], workload: str, path: Path) -> None:
    """Plot a workload's p99 TTFT, mean TPOT, throughput and bubble share by load, with one column for each pp."""
    chosen = [mean for mean in means if mean.workload == workload]
    depths = sorted({mean.pp for mean in chosen})
    rows: tuple[tuple[str, Callable[[Mean], float], bool], ...] = (
        ("p99 TTFT, s", lambda mean: mean.ttft_p99 / 1e3, True),
        ("mean TPOT, ms", lambda mean: mean.tpot_mean, False),
        ("steady tok/s", lambda mean: mean.throughput, False),
        ("bubble share", lambda mean: mean.bubble, False),
    )
    figure, axes = pyplot().subplots(
        len(rows), len(depths), figsize=(2.3 * len(depths) + 0.6, 7.2), squeeze=False, sharex=True, sharey="row"
    )
    for column, depth in enumerate(depths):
        here = [mean for mean in chosen if mean.pp == depth]
        for line, (label, value, logarithmic) in enumerate(rows):
            axis = axes[line][column]
            for policy, (colour, marker) in STYLES.items():
                points = sorted((mean.load, value(mean)) for mean in here if mean.policy == policy)
                if points:
                    axis.plot(
                        *zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=policy, lw=1.2
                    )
            if logarithmic:
                axis.set_yscale("log")
            if column == 0:
                axis.set_ylabel(label)
            if line == 0:
                axis.set_title(f"PP{depth}")
            if line == len(rows) - 1:
                axis.set_xlabel("rate / capacity")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    save(figure, path)


def plot_goodput(points: Sequence[Point], path: Path) -> None:
    """Plot goodput against the request rate: a column for each pp, a row for each workload."""
    depths = sorted({point.pp for point in points})
    workloads = list(dict.fromkeys(point.workload for point in points))
    figure, axes = pyplot().subplots(
        len(workloads), len(depths), figsize=(3.6 * len(depths) + 0.6, 2.8 * len(workloads) + 0.8), squeeze=False
    )
    for (row, workload), (column, depth) in itertools.product(enumerate(workloads), enumerate(depths)):
        axis = axes[row][column]
        here = [point for point in points if (point.pp, point.workload) == (depth, workload)]
        rates = sorted({point.rate for point in here})
        axis.plot(rates, rates, color="#999999", lw=0.8, ls=":", label="every request")
        for line in reversed(dict.fromkeys(point.line for point in here)):
            colour, marker = STYLES.get(line, ("#000000", "*"))
            values = sorted((point.rate, point.goodput) for point in here if point.line == line)
            strong = line not in STYLES
            axis.plot(
                *zip(*values, strict=True), color=colour, marker=marker, markersize=7 if strong else 4,
                lw=2.0 if strong else 1.0, label=line if strong else f"{line}, best #MaxP",
            )  # fmt: skip
        axis.set_ylim(bottom=0)
        axis.set_title(f"{workload}, PP{depth}")
        if row == len(workloads) - 1:
            axis.set_xlabel("requests/s")
        if column == 0:
            axis.set_ylabel("goodput, requests/s")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.88 if len(workloads) > 1 else 0.8))
    save(figure, path)


def plot_microbatches(outcomes: dict[str, Outcome], path: Path, *, count: int = 400) -> None:
    """Plot tokens and times of successive micro-batches while requests still arrive."""
    figure, axes = pyplot().subplots(
        2, len(outcomes), figsize=(3.0 * len(outcomes) + 0.5, 4.2), squeeze=False, sharex=True, sharey="row"
    )
    for column, (policy, outcome) in enumerate(outcomes.items()):
        last = max(record.start for record in outcome.records) or outcome.duration
        first = bisect(outcome.sent, 0.7 * last)
        middle = slice(first, first + count)
        works, seconds = outcome.works[middle], outcome.stage_seconds[middle]
        steps = range(len(works))
        top, bottom = axes[0][column], axes[1][column]
        decode, prefill = [work.decode_rows for work in works], [work.prefill_tokens for work in works]
        top.stackplot(steps, decode, prefill, colors=("#92c5de", "#b2182b"), labels=("decode", "prefill"))
        bottom.plot(steps, [1e3 * value for value in seconds], color=STYLES.get(policy, ("#333333", ""))[0], lw=0.8)
        top.set_title(f"{policy}\ntime CV {outcome.time_cv:.2f}, bubble {100 * outcome.bubble:.0f} %")
        bottom.set_xlabel("micro-batch")
        if column == 0:
            top.set_ylabel("tokens")
            bottom.set_ylabel("slowest stage, ms")
            top.legend(loc="upper left", frameon=False)
    figure.tight_layout()
    save(figure, path)
