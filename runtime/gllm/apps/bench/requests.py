"""The request of a benchmark: what is sent, how long the answer is, and when."""

from __future__ import annotations

import msgspec

Message = dict[str, str]
"""{"role": ..., "content": ...}"""
Prompt = list[int] | str | list[Message]
"""Token ids, text, or a conversation."""


class BenchRequest(msgspec.Struct, frozen=True):
    """One request. Its prompt is `messages`, else `text`, else `token_ids`: the first that is not empty."""

    index: int
    token_ids: list[int]
    output_len: int
    arrival: float
    """Seconds after the start of the run."""
    text: str = ""
    messages: list[Message] = []
    text_tokens: int = 0
    """Tokens of `text` or `messages`: counted by a tokenizer, or estimated."""
    conversation: int | None = None
    """Requests of one conversation are sent one after another, in order of `index`."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.token_ids) or self.text_tokens

    @property
    def prompt(self) -> Prompt:
        return self.messages or self.text or self.token_ids


def as_request(
    index: int, prompt: Prompt, prompt_tokens: int, output_len: int, arrival: float, conversation: int | None = None
) -> BenchRequest:
    """Return the request of a prompt of any kind."""
    if isinstance(prompt, str):
        return BenchRequest(
            index, [], output_len, arrival, text=prompt, text_tokens=prompt_tokens, conversation=conversation
        )
    if prompt and isinstance(prompt[0], dict):
        messages = [message for message in prompt if isinstance(message, dict)]
        return BenchRequest(
            index, [], output_len, arrival, messages=messages, text_tokens=prompt_tokens, conversation=conversation
        )
    token_ids = [token for token in prompt if isinstance(token, int)]
    return BenchRequest(index, token_ids, output_len, arrival, conversation=conversation)
