"""What a data set is asked for, and what it gives."""

from __future__ import annotations

import msgspec

from gllm.apps.bench.prompt_writer import Counter, Writer, estimate_tokens
from gllm.apps.bench.requests import Message, Prompt


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What every data set is asked for."""

    count: int | None
    """Requests; None: as many as the data set has, or `DEFAULT_COUNT`."""
    seed: int
    write: Writer
    """Makes prompts for data sets that have only lengths."""
    count_tokens: Counter = estimate_tokens
    """The tokens of a text; without a tokenizer an estimate."""
    max_model_len: int | None = None
    input_len: int | None = None
    output_len: int | None = None


class Item(msgspec.Struct, frozen=True):
    """One request of a data set."""

    prompt: Prompt
    prompt_tokens: int
    output_len: int
    arrival: float | None = None
    """Seconds after the first request of the data set, if it knows."""
    conversation: int | None = None


DEFAULT_COUNT = 1000
"""Requests of data sets that have any number, as in vLLM."""


def messages_tokens(messages: list[Message], count: Counter) -> int:
    """Return the tokens of the messages' text; those of a chat template are not known."""
    return sum(count(message["content"]) for message in messages)
