"""The `usage` object."""

from __future__ import annotations

from typing import Any

from gllm.gateway.service import Generation


def usage(generation: Generation, reasoning_tokens: int | None = None) -> dict[str, Any]:
    """A prompt counts once, however many choices it has. `reasoning_tokens` None: there is no reasoning parser."""
    prompts = [choice for choice in generation.choices if choice.first_of_prompt]
    prompt_tokens = sum(len(choice.prompt) for choice in prompts)
    completion_tokens = sum(choice.completion_tokens for choice in generation.choices)
    counts: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(choice.cached_tokens for choice in prompts)},
    }
    if reasoning_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    return counts
