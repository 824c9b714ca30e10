"""Samples of a server's /metrics, and what happened between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

PREFIX = "gllm:"
Series = dict[str, list[tuple[Mapping[str, str], float]]]
"""Name without prefix -> (labels, value) of each series."""


@dataclass(frozen=True)
class Sample:
    """The series of one answer, and when it came."""

    time: float
    """time.monotonic()."""
    series: Series = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of the series with these labels; None if there is none."""
        found = [value for own, value in self.series.get(name, ()) if labels.items() <= own.items()]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the value of each series by one of its labels."""
        return {labels[label]: value for labels, value in self.series.get(name, ()) if label in labels}

    def label(self, label: str) -> list[str]:
        """Return the distinct values of a label of any series."""
        return sorted({labels[label] for group in self.series.values() for labels, _ in group if label in labels})

    def buckets(self, name: str) -> dict[float, float]:
        """Return the cumulative counts of a histogram by upper edge, summed over its series."""
        counts: dict[float, float] = {}
        for labels, value in self.series.get(f"{name}_bucket", ()):
            counts[float(labels["le"])] = counts.get(float(labels["le"]), 0.0) + value
        return counts


def read_sample(text: str, time: float) -> Sample:
    """Read Prometheus text. Raises ValueError if it is none, or not gLLM's."""
    from prometheus_client.parser import text_string_to_metric_families

    series: Series = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name.startswith(PREFIX):
                series.setdefault(one.name.removeprefix(PREFIX), []).append((one.labels, one.value))
    if not series:
        raise ValueError("its /metrics has no series of gLLM")
    return Sample(time, series)


class Between:
    """Two samples of a server, an earlier and a later one. A counter that fell began again from zero."""

    def __init__(self, before: Sample, after: Sample) -> None:
        self.after = after
        self._before = before
        self.seconds = max(after.time - before.time, 1e-9)

    def growth(self, name: str, **labels: str) -> float | None:
        """Return the growth of a counter; None if there is no such series, or only one sample yet."""
        if self.after is self._before:
            return None
        after = self.after.total(name, **labels)
        if after is None:
            return None
        before = self._before.total(name, **labels) or 0.0
        return after - before if after >= before else after

    def rate(self, name: str, **labels: str) -> float | None:
        """Return the growth per second."""
        growth = self.growth(name, **labels)
        return None if growth is None else growth / self.seconds

    def share(self, part: str, *whole: float | None, **labels: str) -> float | None:
        """Return the growth of a counter as a share of a sum; None if nothing grew."""
        growth = self.growth(part, **labels)
        below = sum(value or 0.0 for value in whole)
        return None if growth is None or below <= 0.0 else growth / below

    def quantile(self, name: str, quantile: float) -> float | None:
        """Return a quantile of what a histogram counted, as Prometheus computes it; None if it counted nothing."""
        before, after = self._before.buckets(name), self.after.buckets(name)
        if not after or after[math.inf] < before.get(math.inf, 0.0):
            before = {}
        counts = {edge: count - before.get(edge, 0.0) for edge, count in sorted(after.items())}
        rank = quantile * counts.get(math.inf, 0.0)
        if rank <= 0.0:
            return None
        low, below = 0.0, 0.0
        for edge, count in counts.items():
            if count >= rank:
                return low if edge == math.inf else low + (edge - low) * (rank - below) / (count - below)
            low, below = edge, count
        return low
