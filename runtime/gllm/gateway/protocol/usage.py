"""How many tokens a generation took."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.gateway.request.generation import Generation


class TokenCounts(msgspec.Struct):
    prompt: int
    """A prompt counts once, however many choices it has."""
    cached: int
    """Of `prompt`, those found in the prefix cache."""
    completion: int
    reasoning: int | None
    """Of `completion`; None: there is no reasoning parser."""


def count_tokens(generation: Generation, reasoning: int | None = None) -> TokenCounts:
    """Those of the deltas so far."""
    prompts = [choice for choice in generation.choices if choice.first_of_prompt]
    return TokenCounts(
        prompt=sum(len(choice.prompt) for choice in prompts),
        cached=sum(choice.cached_tokens for choice in prompts),
        completion=sum(choice.delivered_tokens for choice in generation.choices),
        reasoning=reasoning,
    )


def usage(counts: TokenCounts) -> dict[str, Any]:
    """The `usage` object of chat and text completions."""
    shown: dict[str, Any] = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }
    if counts.reasoning is not None:
        shown["completion_tokens_details"] = {"reasoning_tokens": counts.reasoning}
    return shown
