"""What may be given as a prompt."""

from __future__ import annotations

from typing import Any

from gllm.sampling_params import ParameterError

Message = dict[str, Any]
Prompt = str | list[int] | list[Message]
"""Text, token ids, or a conversation."""


def as_prompts(prompts: Any) -> list[Prompt]:
    """One prompt or several, as a list; raises ParameterError that names the one that is neither text nor ids."""
    if isinstance(prompts, str):
        return [prompts]
    listed = list(prompts)
    if listed and all(type(token) is int for token in listed):
        return [listed]
    for place, prompt in enumerate(listed):
        if not isinstance(prompt, str | list | tuple) or (prompt and isinstance(prompt[0], dict)):
            raise ParameterError(
                "prompts", f"prompts[{place}] must be text or a list of token ids (for conversations use chat)"
            )
    return [prompt if isinstance(prompt, str) else list(prompt) for prompt in listed]
