"""The input of `gllm generate`: JSON lines, as in OpenAI's Batch API, become requests or errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from gllm.apps.offline.prompts import Prompt
from gllm.gateway.protocol.fields import without_no_ops
from gllm.sampling_params import ParameterError, SamplingParams

_SAMPLING_FIELDS = frozenset(SamplingParams.__struct_fields__)
_TRANSLATED = frozenset({"max_completion_tokens", "response_format", "top_logprobs"})
"""Fields of OpenAI that become sampling parameters."""
_FOR_TEMPLATES = frozenset({"chat_template_kwargs", "reasoning_effort"})
"""Refused: over HTTP these change the prompt."""
_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"
_ENVELOPE = frozenset({"custom_id", "method", "url", "body"})


class BatchRequest(msgspec.Struct, frozen=True):
    """One valid line of the input."""

    custom_id: str
    line: int
    prompt: Prompt
    sampling: SamplingParams
    chat: bool


class BadLine(msgspec.Struct, frozen=True):
    """One invalid line of the input, and the field that is wrong."""

    custom_id: str
    line: int
    field: str
    message: str


def read_requests(
    lines: Iterable[bytes], default: Callable[..., SamplingParams], skip: frozenset[str] = frozenset(), model: str = ""
) -> Iterator[BatchRequest | BadLine]:
    """Parse the lines one by one, without blank ones and those whose id is in `skip`.

    A line is OpenAI's {"custom_id", "url", "body": {...}}, or the body alone: {"prompt": ...} or {"messages": [...]}
    with any fields of SamplingParams. A line without `custom_id` (or `id`) is called line-N, N counting from 1.

    Args:
        default: makes the sampling parameters from the fields of a line (see `LLM.default_sampling`).
        model: the served name, which a line may give; "": a line may give any name.
    """
    seen: set[str] = set()
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        request = parse_line(raw, number, default, model)
        if request.custom_id in seen:
            # Two records with one id could not be told apart when the run resumes.
            request = BadLine(f"line-{number}", number, "custom_id", f"{request.custom_id!r} was used before")
        seen.add(request.custom_id)
        if request.custom_id not in skip:
            yield request


def parse_line(
    raw: bytes, number: int, default: Callable[..., SamplingParams], model: str = ""
) -> BatchRequest | BadLine:
    """Return a request, or the error of the line."""
    custom_id = f"line-{number}"
    try:
        try:
            line = json.loads(raw)
        except ValueError as error:
            raise ParameterError("json", f"not JSON: {error}") from None
        if not isinstance(line, dict):
            raise ParameterError("json", "the line must be a JSON object")
        given = line.get("custom_id", line.get("id"))
        if given is not None:
            if not isinstance(given, str | int):
                raise ParameterError("custom_id", "custom_id must be a string")
            custom_id = str(given)
        url, body = _split_envelope(line)
        _check_model(body.pop("model", None), model)
        return _parse_body(custom_id, number, url, body, default)
    except ParameterError as error:
        return BadLine(custom_id, number, error.param, str(error))
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ParameterError):
            return BadLine(custom_id, number, error.__cause__.param, str(error.__cause__))
        # msgspec names the field: "Expected `float`, got `str` - at `$.temperature`"
        return BadLine(custom_id, number, str(error).rpartition("$.")[2].strip("`") or "body", str(error))


def _split_envelope(line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (url or "", body)."""
    if "body" not in line:
        return "", {name: value for name, value in line.items() if name not in ("custom_id", "id")}
    unknown = line.keys() - _ENVELOPE - {"id"}
    if unknown:
        raise ParameterError(min(unknown), f"{min(unknown)} is not a field of a batch line")
    url = line.get("url", "")
    if url not in ("", _CHAT, _TEXT):
        raise ParameterError("url", f"url must be {_CHAT} or {_TEXT}, not {url!r}")
    if not isinstance(line["body"], dict):
        raise ParameterError("body", "body must be a JSON object")
    return url, dict(line["body"])


def _parse_body(
    custom_id: str, line: int, url: str, body: dict[str, Any], default: Callable[..., SamplingParams]
) -> BatchRequest:
    if body.pop("stream", False):
        raise ParameterError("stream", "stream has no meaning in a batch: leave it out")
    chat = "messages" in body
    if chat == ("prompt" in body) or (url == _CHAT and not chat) or (url == _TEXT and chat):
        raise ParameterError("prompt", "the line must have either prompt or messages, as its url says")
    prompt = _messages(body.pop("messages")) if chat else _prompt(body.pop("prompt"))
    return BatchRequest(custom_id, line, prompt, _sampling(body, chat, default), chat)


def _check_model(named: Any, served: str) -> None:
    """Raise ParameterError for another model's name. As over HTTP, an empty or missing name means this run's model."""
    if named and served and named != served:
        raise ParameterError(
            "model",
            f"the model {named!r} does not exist here, this run has {served!r} (--served-model-name sets another name)",
        )


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ParameterError("messages", 'messages must be a list of {"role": ..., "content": ...}')
    return messages


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise ParameterError("prompt", "prompt must be text or a list of token ids, and not empty (one prompt a line)")


def _sampling(body: dict[str, Any], chat: bool, default: Callable[..., SamplingParams]) -> SamplingParams:
    """Translate OpenAI's fields to `SamplingParams`.

    As over HTTP, fields that ask for nothing are passed over, and all others are refused by name.
    """
    fields = without_no_ops(body, _SAMPLING_FIELDS | _TRANSLATED | _FOR_TEMPLATES)
    if "max_completion_tokens" in fields:
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    for name in ("stop", "stop_regex"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    if chat:
        top = fields.pop("top_logprobs", 0)
        if "logprobs" in fields:
            if fields["logprobs"] is not True:
                raise ParameterError("logprobs", "logprobs must be true or false in a chat request")
            fields["logprobs"] = top
    if "response_format" in fields:
        grammar = _grammar(fields.pop("response_format"))
        if grammar:
            fields["grammar"] = grammar
    unknown = fields.keys() - _SAMPLING_FIELDS
    if unknown:
        raise ParameterError(min(unknown), f"{min(unknown)} is not supported in a batch line")
    typed = msgspec.convert(fields, SamplingParams, str_keys=True)
    return default(**{name: getattr(typed, name) for name in fields})


def _grammar(response_format: Any) -> str | None:
    """Return the grammar of OpenAI's response_format; None for plain text."""
    from gllm.text.grammar import any_json_object, grammar_from_json_schema

    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return any_json_object()
    form = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        raise ParameterError(
            "response_format", "response_format must have the type text, json_object or json_schema (with its schema)"
        )
    return grammar_from_json_schema(form["schema"])
