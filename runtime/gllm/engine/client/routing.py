"""Which of several engines gets a request: a pure function of a few figures of each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gllm.engine.time_model import chunk_pairs
from gllm.wire.forecast import PrefillForecast

SLACK_SECONDS = 0.5
MAX_RATIO = 2.0
"""A cached prefix may make a request wait MAX_RATIO times as long as on the least busy engine, plus SLACK_SECONDS.
Without a bound all requests with one system prompt would meet on one engine."""
ALIKE_RATIO = 1.25
ALIKE_SECONDS = 0.02
"""Predictions that differ by less than their usual error count as equal. Then the engine with the fewest requests wins:
the time to the first token hardly shows how many requests decode, but each slows the others down."""
UNMEASURED = PrefillForecast(token=1e-3)
"""Of an engine that has measured no step, if no engine has."""


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one engine when a request arrives."""

    forecast: PrefillForecast = PrefillForecast()
    unseen_tokens: int = 0
    """Prompt tokens that wait there and that its forecast does not count yet."""
    requests: int = 0
    """Requests that run or wait there."""
    cached_tokens: int = 0
    """Leading tokens of the request whose KV pages the engine has."""
    leaving: bool = False
    """Whether its group will end."""


def choose_engine(prompt_tokens: int, engines: Sequence[EngineLoad], turn: int = 0) -> int | None:
    """Return the index of the engine for a prompt of this length; None if there is no engine.

    Engines that leave are used only if all do. Among the others whose predicted wait is within the bound of the
    shortest one, the longest cached prefix wins, then the shortest wait, then the fewest requests; equal ones take
    turns by `turn`.
    """
    staying = [index for index, engine in enumerate(engines) if not engine.leaving] or list(range(len(engines)))
    if not staying:
        return None
    waits = dict(zip(staying, predicted_waits(prompt_tokens, [engines[index] for index in staying]), strict=True))
    bound = min(waits.values()) * MAX_RATIO + SLACK_SECONDS
    within = [index for index in staying if waits[index] <= bound]
    longest = max(engines[index].cached_tokens for index in within)
    cached = [index for index in within if engines[index].cached_tokens == longest]
    alike = min(waits[index] for index in cached) * ALIKE_RATIO + ALIKE_SECONDS
    soonest = [index for index in cached if waits[index] <= alike]
    fewest = min(engines[index].requests for index in soonest)
    equal = [index for index in soonest if engines[index].requests == fewest]
    return equal[turn % len(equal)]


def next_in_turn(engines: Sequence[bool], turn: int) -> int | None:
    """Return the index of the engine by round-robin. engines: whether each one's group will end."""
    staying = [index for index, leaving in enumerate(engines) if not leaving] or list(range(len(engines)))
    return staying[turn % len(staying)] if staying else None


def predicted_waits(prompt_tokens: int, engines: Sequence[EngineLoad]) -> list[float]:
    """Return the predicted seconds to the first token on each engine.

    An engine that has measured nothing yet counts as fast as the slowest other one.
    """
    measured = [engine.forecast for engine in engines if engine.forecast.token]
    stand_in = max(measured, key=lambda one: one.token, default=UNMEASURED)
    return [
        predicted_wait(prompt_tokens, engine, engine.forecast if engine.forecast.token else stand_in)
        for engine in engines
    ]


def predicted_wait(prompt_tokens: int, engine: EngineLoad, speed: PrefillForecast) -> float:
    """Return the predicted seconds until an engine has computed what waits there and the prompt.

    speed: the forecast whose seconds per token and pair count.
    """
    cached = min(engine.cached_tokens, prompt_tokens - 1)
    own = prompt_tokens - cached
    return engine.forecast.waiting + speed.token * (engine.unseen_tokens + own) + speed.pair * chunk_pairs(cached, own)
