"""The token counts of a generation, and the `usage` objects that show them."""

from __future__ import annotations

from typing import Any

import msgspec


class TokenCounts(msgspec.Struct):
    prompt: int
    """A prompt counts once, however many choices it has."""
    cached: int
    """Part of `prompt` that was found in the prefix cache."""
    completion: int
    reasoning: int | None
    """Part of `completion`; None: there is no reasoning parser."""


def usage(counts: TokenCounts) -> dict[str, Any]:
    """Return the `usage` of chat and text completions."""
    fields: dict[str, Any] = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }
    if counts.reasoning is not None:
        fields["completion_tokens_details"] = {"reasoning_tokens": counts.reasoning}
    return fields


def responses_usage(counts: TokenCounts) -> dict[str, Any]:
    """Return the `usage` of the Responses API."""
    return {
        "input_tokens": counts.prompt,
        # Writes to the prefix cache are free.
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning or 0},
        "total_tokens": counts.prompt + counts.completion,
    }


def messages_usage(counts: TokenCounts) -> dict[str, Any]:
    """Return the `usage` of Anthropic's Messages API."""
    fields: dict[str, Any] = {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }
    if counts.reasoning is not None:
        fields["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
    return fields
