"""Accuracies with confidence intervals, for all questions and for each group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gllm.apps.eval.task import Outcome

Z = 1.959964
"""Quantile of the normal distribution for 95 %."""
FORMULA = (
    "Intervals are Wilson's score intervals for 95 %: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96. "
    "n is the number of questions; where a question has several outcomes, n is the number of independent outcomes "
    "with the same variance of p (Kish's effective sample size, questions as clusters)."
)


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The share of correct outcomes, and its interval."""

    value: float
    low: float
    high: float
    correct: int
    outcomes: int
    questions: int


def wilson(p: float, n: float, z: float = Z) -> tuple[float, float]:
    """Return Wilson's score interval of a share p of n outcomes (Wilson 1927, JASA 22, 209-212)."""
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # the share itself despite rounding


def accuracy(by_question: Sequence[Sequence[bool]]) -> Accuracy:
    """Return the accuracy of outcomes, given as one list for each question. No list is empty, and there is one."""
    correct = sum(sum(outcomes) for outcomes in by_question)
    total = sum(len(outcomes) for outcomes in by_question)
    p = correct / total
    # The variance of a ratio whose clusters are the questions; with one outcome each it is p(1-p)/n.
    variance = sum((sum(outcomes) - p * len(outcomes)) ** 2 for outcomes in by_question) / total**2
    n = min(p * (1 - p) / variance, total) if variance > 0 else len(by_question)
    low, high = wilson(p, n)
    return Accuracy(value=p, low=low, high=high, correct=correct, outcomes=total, questions=len(by_question))


Accuracies = dict[str, dict[str, Accuracy]]
"""By metric and group; the group "" has everything."""


def accuracies(outcomes_by_question: Sequence[Sequence[Outcome]], metrics: Sequence[str]) -> Accuracies:
    """Return the accuracy of each metric, for everything and for each group in the order of names."""
    found: Accuracies = {}
    for metric in metrics:
        groups: dict[str, list[list[bool]]] = {}
        for outcomes in outcomes_by_question:
            own = [outcome for outcome in outcomes if outcome.metric == metric]
            for group in {"", *(outcome.group for outcome in own)}:
                groups.setdefault(group, []).append([o.correct for o in own if group in ("", o.group)])
        found[metric] = {group: accuracy(groups[group]) for group in sorted(groups)}
    return found
