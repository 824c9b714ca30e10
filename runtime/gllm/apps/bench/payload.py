"""The HTTP request of a benchmark's request, for each of the three OpenAI endpoints. Pure: bytes out."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gllm.apps.bench.requests import BenchRequest, Message, Prompt

Api = Literal["completions", "chat", "responses"]
PATHS: dict[Api, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
}


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How every request of a run is asked."""

    api: Api = "completions"
    ignore_eos: bool = True
    """Whether to ask for exactly `output_len` tokens, by a field that OpenAI's own API lacks."""
    temperature: float | None = 0.0
    """None: the server's default."""
    extra_body: dict[str, Any] = {}
    """More fields; a field that is None is not sent."""
    headers: dict[str, str] = {}


DEFAULT_STYLE = Style()


def body_of(request: BenchRequest, model: str, style: Style) -> bytes:
    """Return the JSON of a streamed request. Raises ValueError if the endpoint cannot take its prompt."""
    body: dict[str, Any] = {"model": model}
    if style.api == "completions":
        body["prompt"] = as_text(request.messages) if request.messages else request.prompt
        body["max_tokens"] = request.output_len
    elif style.api == "chat":
        body["messages"] = as_messages(request.prompt)
        body["max_tokens"] = request.output_len
    else:
        body["input"] = as_messages(request.prompt)
        body["max_output_tokens"] = request.output_len
    body["temperature"] = style.temperature
    body["stream"] = True
    if style.api != "responses":
        body["stream_options"] = {"include_usage": True}
    if style.ignore_eos:
        body["ignore_eos"] = True
    body.update(style.extra_body)
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def as_messages(prompt: Prompt) -> list[Message]:
    """Return a prompt as a conversation. Raises ValueError for token ids."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if prompt and isinstance(prompt[0], dict):
        return [message for message in prompt if isinstance(message, dict)]
    raise ValueError("a prompt of token ids needs --endpoint completions")


def as_text(messages: list[Message]) -> str:
    """Return a conversation as the prompt of a completion, without a chat template."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
