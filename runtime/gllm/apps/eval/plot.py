"""The plot of a benchmark: the accuracy of each group with its interval."""

from __future__ import annotations

from pathlib import Path

from gllm.apps.eval.report import ALL, Result
from gllm.apps.figure import pyplot, save


def plot_result(result: Result, path: Path) -> None:
    """Plot the first metric; groups by accuracy, the best on top, and everything above them. Raises ValueError."""
    metric, groups = next(iter(result.accuracies.items()))
    named = sorted((group for group in groups if group), key=lambda group: groups[group].value)
    order = [*named, ""]
    figure, axis = pyplot().subplots(figsize=(6.4, 1.1 + 0.28 * len(order)))
    for height, group in enumerate(order):
        one = groups[group]
        value, low, high = 100 * one.value, 100 * one.low, 100 * one.high
        axis.barh(height, value, height=0.62, color="#2166ac" if group else "#1b7837", alpha=0.55)
        axis.errorbar(
            value, height, xerr=[[value - low], [high - value]], color="#222222", capsize=3, lw=1.0, fmt="none"
        )
        axis.text(min(high + 1.5, 101), height, f"{value:.1f}", va="center", fontsize=7)
    axis.set_yticks(range(len(order)), [f"{group or ALL} ({groups[group].questions})" for group in order])
    axis.set_xlim(0, 108)
    axis.set_xticks(range(0, 101, 20))
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"{metric}, % (lines: 95 % intervals; in brackets: number of questions)")
    axis.set_title(f"{result.task}: {result.model}")
    figure.tight_layout()
    save(figure, path)
