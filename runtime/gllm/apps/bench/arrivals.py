"""When requests are sent. Pure: a seed gives the same times anywhere."""

from __future__ import annotations

import math
import random
from typing import Literal

import msgspec

RampUp = Literal["linear", "exponential"]


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """A process of arrivals: at one rate, at a rate that ramps up over the run, or at rates in stages."""

    rate: float = math.inf
    """Requests per second; infinite: all at once."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps, as in `vllm bench serve`. 1: Poisson; below 1: bursts; above 1:
    more even."""
    ramp: RampUp | None = None
    """From `start` to `end` requests per second over the requests of the run, instead of `rate`."""
    start: float = 0.0
    end: float = 0.0
    stages: tuple[tuple[float, float], ...] = ()
    """(requests per second, seconds) of each stage, instead of `rate`."""

    @property
    def at_once(self) -> bool:
        return math.isinf(self.rate) and not self.ramp and not self.stages

    def times(self, count: int, seed: int) -> list[float]:
        """Return when each of `count` requests is sent, in seconds, the first at 0 unless there are stages."""
        rng = arrivals_rng(seed)
        if self.stages:
            return self._staged(rng)[:count]
        if not self.ramp:
            return arrival_times(count, self.rate, rng, self.burstiness)
        now, times = 0.0, []
        for index in range(count):
            times.append(now)
            now += _gap(self._ramped(index / count), self.burstiness, rng)
        return times

    def count_of_stages(self, seed: int) -> int:
        """Return how many requests come in all stages."""
        return len(self._staged(arrivals_rng(seed)))

    def _ramped(self, share: float) -> float:
        if self.ramp == "linear":
            return self.start + (self.end - self.start) * share
        return self.start * float((self.end / self.start) ** share)

    def _staged(self, rng: random.Random) -> list[float]:
        times: list[float] = []
        begins = 0.0
        for rate, seconds in self.stages:
            # A gap that crosses the end of a stage is cut there: the next stage begins with a gap of its own.
            now = begins + _gap(rate, self.burstiness, rng)
            while now < begins + seconds:
                times.append(now)
                now += _gap(rate, self.burstiness, rng)
            begins += seconds
        return times


def arrivals_rng(seed: int) -> random.Random:
    """Return the random numbers of the arrivals, which are independent of those of lengths and prompts."""
    return random.Random(f"{seed}/arrivals")


def arrival_times(count: int, rate: float, rng: random.Random, burstiness: float = 1.0) -> list[float]:
    """Return arrivals at `rate` requests per second; all at 0 if the rate is infinite. Raises ValueError."""
    if math.isinf(rate):
        return [0.0] * count
    if rate <= 0:
        raise ValueError(f"request rate must be above 0 (or inf), not {rate}")
    now, times = 0.0, []
    for _ in range(count):
        times.append(now)
        now += _gap(rate, burstiness, rng)
    return times


def parse_stages(text: str) -> tuple[tuple[float, float], ...]:
    """Parse "2:30,8:60" to ((2.0, 30.0), (8.0, 60.0)): rates, each with its seconds. Raises ValueError."""
    stages = []
    for part in text.split(","):
        rate, _, seconds = part.partition(":")
        try:
            stage = (float(rate), float(seconds))
        except ValueError:
            stage = (0.0, 0.0)
        if not all(0 < value < math.inf for value in stage):
            raise ValueError(f"--rate-stages must look like 2:30,8:60 (requests per second:seconds), not {text!r}")
        stages.append(stage)
    return tuple(stages)


def _gap(rate: float, burstiness: float, rng: random.Random) -> float:
    """Draw the seconds between two arrivals; their mean is 1 / rate."""
    if burstiness == 1.0:
        return rng.expovariate(rate)
    return rng.gammavariate(burstiness, 1.0 / (rate * burstiness))
