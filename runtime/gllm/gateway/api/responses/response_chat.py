"""Converts a Responses request, with the conversation before it, to the chat request that answers it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.errors import ApiError, bad_request
from gllm.gateway.protocol.item_schema import Item
from gllm.gateway.protocol.responses_schema import (
    FunctionTool,
    ResponsesRequest,
    SchemaFormat,
    ToolChoiceAllowed,
    ToolChoiceFunction,
)
from gllm.gateway.protocol.validation import from_validation

_SUMMARY_MARK = b"gllm:"
_CHAT_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


def chat_request(request: ResponsesRequest, items: Sequence[Item]) -> ChatRequest:
    """Return the chat request that answers `request`. Raises ApiError that names the fields of `request`.

    items: the conversation and the new input.
    """
    values: dict[str, Any] = {
        **request.chat_extras,
        "model": request.model,
        "messages": chat_messages(request.instructions, items),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "chat_template_kwargs": request.chat_template_kwargs,
        "max_completion_tokens": request.max_output_tokens,
        **_tool_fields(request),
        **_format_fields(request),
    }
    if request.reasoning is not None and request.reasoning.effort is not None:
        values["reasoning_effort"] = request.reasoning.effort
    if request.wants_logprobs:
        values["logprobs"] = True
        values["top_logprobs"] = request.top_logprobs or 0
    return checked_chat(values)


def checked_chat(values: dict[str, Any]) -> ChatRequest:
    try:
        return ChatRequest.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise in_responses_terms(from_validation(error.errors(include_url=False, include_input=False))) from None


def in_responses_terms(error: ApiError) -> ApiError:
    """Return the same error with the field's name in a Responses request."""
    field, dot, rest = (error.param or "").partition(".")
    name, bracket, index = field.partition("[")
    if name not in _CHAT_NAMES:
        return error
    own = _CHAT_NAMES[name]
    return ApiError(
        error.status,
        error.message.replace(name, own),
        kind=error.kind,
        param=own + bracket + index + dot + rest,
        code=error.code,
        retry_after=error.retry_after,
    )


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """Convert items to chat messages.

    Consecutive reasoning, text and calls become one assistant message, as templates expect.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    turn: dict[str, Any] = {}

    def end_turn() -> None:
        # Templates have no place for reasoning without text or a call after it.
        if "content" in turn or "tool_calls" in turn:
            messages.append({"role": "assistant", **turn})
        turn.clear()

    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            if "content" in turn or "tool_calls" in turn:
                end_turn()
            turn["reasoning_content"] = turn.get("reasoning_content", "") + _reasoning_text(item)
        elif kind == "function_call":
            call = {"name": item["name"], "arguments": item["arguments"]}
            turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": call})
        elif kind == "message" and item["role"] == "assistant":
            if "content" in turn or "tool_calls" in turn:
                end_turn()
            turn["content"] = _text(item["content"])
        else:
            end_turn()
            messages.append(_single_message(item))
    end_turn()
    return messages


def _single_message(item: Item) -> dict[str, Any]:
    if item["type"] == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
    if item["type"] == "compaction":
        summary = read_summary(item["encrypted_content"])
        return {"role": "assistant", "content": f"Summary of the conversation so far:\n{summary}"}
    return {"role": item["role"], "content": _text(item["content"])}


def _text(content: str | list[Item]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in content)


def _reasoning_text(item: Item) -> str:
    """Return the reasoning, or its summary if there is no reasoning."""
    return "".join(part["text"] for part in item["content"] or item["summary"])


def write_summary(text: str) -> str:
    """Return the `encrypted_content` of a compaction item: encoded, not secret."""
    return base64.b64encode(_SUMMARY_MARK + text.encode()).decode()


def read_summary(encrypted_content: str) -> str:
    """Return the summary. Raises ApiError if this server did not write the item."""
    try:
        raw = base64.b64decode(encrypted_content, validate=True)
        if raw.startswith(_SUMMARY_MARK):
            return raw.removeprefix(_SUMMARY_MARK).decode()
    except (binascii.Error, ValueError):
        pass
    raise bad_request("input", "a compaction item was not written by this server", "invalid_value")


def _tool_fields(request: ResponsesRequest) -> dict[str, Any]:
    tools, choice = request.tools or [], request.tool_choice
    chosen: Any = choice
    if isinstance(choice, ToolChoiceFunction):
        chosen = {"type": "function", "function": {"name": choice.name}}
    elif isinstance(choice, ToolChoiceAllowed):
        names = {tool.name for tool in choice.tools}
        if unknown := names - {tool.name for tool in tools}:
            raise bad_request("tool_choice", f"there is no tool named '{min(unknown)}'", "invalid_value")
        tools, chosen = [tool for tool in tools if tool.name in names], choice.mode
    if not tools:
        # Without tools, "auto" and "none" change nothing; the chat request refuses "required".
        return {"tool_choice": chosen} if chosen not in (None, "auto", "none") else {}
    return {
        "tools": [_chat_tool(tool) for tool in tools],
        "tool_choice": chosen,
        "parallel_tool_calls": request.parallel_tool_calls,
    }


def _chat_tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _format_fields(request: ResponsesRequest) -> dict[str, Any]:
    form = request.text.format if request.text is not None else None
    if form is None or form.type == "text":
        return {}
    if isinstance(form, SchemaFormat):
        schema = form.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"response_format": {"type": form.type}}
