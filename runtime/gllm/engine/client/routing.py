"""Which of several engines gets a request: a pure function of a few figures of each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

SLACK_TOKENS = 2048
MAX_RATIO = 2.0
"""A cached prefix may make a request wait MAX_RATIO times as long as on the least busy engine, plus the time of
SLACK_TOKENS tokens. Without a bound all requests with one system prompt would meet on one engine."""


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one engine when a request arrives."""

    waiting_tokens: int
    """Prompt tokens that are not computed yet, with those that it has not counted yet."""
    running: int
    """Sequences that decode: each adds a token to every step."""
    cached_tokens: int = 0
    """Leading tokens of the request whose KV pages the engine has."""
    leaving: bool = False
    """Whether its group will end."""


def choose_engine(prompt_tokens: int, engines: Sequence[EngineLoad], turn: int = 0) -> int | None:
    """Return the index of the engine for a prompt of this length; None if there is no engine.

    Engines that leave are used only if all do. Among the others whose predicted wait is within the bound of the
    shortest one, the longest cached prefix wins, then the shortest wait; equal ones take turns by `turn`.
    """
    staying = [index for index, engine in enumerate(engines) if not engine.leaving] or list(range(len(engines)))
    if not staying:
        return None
    waits = {index: predicted_wait(prompt_tokens, engines[index]) for index in staying}
    bound = min(waits.values()) * MAX_RATIO + SLACK_TOKENS
    within = [index for index in staying if waits[index] <= bound]
    best = min((-engines[index].cached_tokens, waits[index]) for index in within)
    equal = [index for index in within if (-engines[index].cached_tokens, waits[index]) == best]
    return equal[turn % len(equal)]


def predicted_wait(prompt_tokens: int, engine: EngineLoad) -> int:
    """Return the time to the first token, in tokens that are computed before it: the waiting prompts, one token of
    each running sequence, and the prompt itself without its cached part. All groups of a model count as equally fast.
    """
    return engine.waiting_tokens + engine.running + max(1, prompt_tokens - engine.cached_tokens)
