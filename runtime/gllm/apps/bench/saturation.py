"""Find the load at which a server is saturated. Pure: a function of the load is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gllm.apps.bench.record import RequestRecord

KEEPS_UP = 0.9
"""Requests that must end for each one that comes, in the second half of the arrivals."""
WORTH = 1.05
"""Throughput of twice the concurrency over that of the concurrency, from which doubling is worth it."""
PRECISION = 1.15
"""The search ends when the lowest rate that fails is at most so many times the highest one that holds."""
MOST_LEVELS = 16


def keeps_up(records: Sequence[RequestRecord]) -> bool:
    """Whether a server completes requests as fast as they come: in the second half of the arrivals.

    A queue that grows until the last arrival means saturation; the tail after it does not count.
    """
    last = max((record.start for record in records), default=0.0)
    came = sum(record.start > last / 2 for record in records)
    ended = sum(last / 2 < record.end <= last for record in records if record.ok)
    return ended >= KEEPS_UP * came


def highest_rate(holds: Callable[[float], bool], start: float) -> float:
    """Return the highest rate that holds, within PRECISION; 0.0 if none was found in MOST_LEVELS levels.

    Doubles (or halves) from `start`, then takes the geometric middle between a rate that holds and one that fails.
    """
    good, bad = 0.0, 0.0
    rate = start
    for _ in range(MOST_LEVELS):
        if holds(rate):
            good = rate
        else:
            bad = rate
        if good and bad and bad <= PRECISION * good:
            break
        rate = (good * bad) ** 0.5 if good and bad else (2 * rate if good else rate / 2)
    return good


def worthwhile_concurrency(throughput: Callable[[int], float], start: int) -> int:
    """Return the concurrency from which doubling it raises the throughput by less than WORTH."""
    concurrency = start
    reached = throughput(concurrency)
    for _ in range(MOST_LEVELS - 1):
        following = throughput(2 * concurrency)
        if following < WORTH * reached:
            break
        concurrency, reached = 2 * concurrency, following
    return concurrency
