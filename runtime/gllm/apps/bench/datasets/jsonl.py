"""`--dataset-name jsonl`: own prompts or conversations, one JSON object a line.

{"prompt": "Once upon a time", "max_tokens": 64}
{"messages": [{"role": "user", "content": "Hi"}]}
{"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": [...]}}
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gllm.apps.bench.datasets.item import Item, Order, messages_tokens
from gllm.apps.bench.requests import Message

DEFAULT_OUTPUT = 256
"""Tokens of an answer if neither the line nor --output-len says, as in `vllm bench serve`."""


class _Body(msgspec.Struct):
    prompt: str | list[int] | None = None
    messages: list[Message] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    output_tokens: int | None = None
    """vLLM's name."""


class _Line(_Body):
    body: _Body | None = None


def read(path: Path, order: Order) -> list[Item]:
    """Return the lines in their order; they repeat if the file has fewer. Raises ValueError, which names the line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    items = [_item(line, f"{path}:{number}", order) for number, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise ValueError(f"{path} has no lines")
    return [items[index % len(items)] for index in range(order.count or len(items))]


def _item(raw: bytes, where: str, order: Order) -> Item:
    try:
        line = msgspec.json.decode(raw, type=_Line)
    except msgspec.DecodeError as error:
        raise ValueError(f"{where}: {error} (a line has prompt, or messages of role and content, both text)") from None
    body = line.body or line
    if bool(body.prompt) == bool(body.messages):
        raise ValueError(f"{where}: the line must have either prompt or messages")
    output_len = order.output_len or body.max_completion_tokens or body.max_tokens or body.output_tokens
    output_len = output_len or DEFAULT_OUTPUT
    if body.messages:
        wrong = [message for message in body.messages if message.keys() < {"role", "content"}]
        if wrong:
            raise ValueError(f"{where}: a message needs role and content")
        return Item(body.messages, messages_tokens(body.messages, order.count_tokens), output_len)
    prompt = body.prompt or ""
    return Item(prompt, order.count_tokens(prompt) if isinstance(prompt, str) else len(prompt), output_len)
