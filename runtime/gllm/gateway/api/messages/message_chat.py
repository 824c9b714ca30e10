"""Converts Anthropic's request to a chat request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any, ClassVar

from pydantic import ValidationError

from gllm.gateway.protocol.anthropic_schema import (
    ContentBlock,
    CountTokensRequest,
    MessageParam,
    MessagesRequest,
    TextBlock,
    ToolChoiceParam,
)
from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.errors import bad_request
from gllm.gateway.protocol.validation import from_validation

_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts that no template knows, and the effort to use instead."""
_BILLING = re.compile(r"x-anthropic-billing-header:[^\n]*\n?")
"""Claude Code begins its system text with such a block.

It means nothing to the model, and it differs in each request, so the prefix cache would never find the prompt.
"""


class MessagesChat(ChatRequest):
    ends_with_context: ClassVar[bool] = True


def chat_of(request: CountTokensRequest) -> MessagesChat:
    """Return the chat request for a Messages request. Raises ApiError for values that a chat request refuses."""
    if request.thread is not None:
        raise bad_request(
            "thread",
            "This server does not keep threads: send all messages, without 'thread'.",
            "thread_unsupported_request",
        )
    fields = {
        "model": request.model,
        "messages": _messages(request),
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                    "strict": tool.strict,
                },
            }
            for tool in request.tools or ()
        ],
        "continue_final_message": _is_prefill(request.messages[-1]),
        "chat_template_kwargs": _template_kwargs(request),
        **_tool_choice(request.tool_choice),
        **_output(request),
    }
    if isinstance(request, MessagesRequest):
        fields |= {
            "max_tokens": request.max_tokens,
            "stop": request.stop_sequences,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "stream": request.stream,
        }
    try:
        return MessagesChat.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


def _messages(request: CountTokensRequest) -> list[dict[str, Any]]:
    """Return the chat messages. Consecutive turns of one role become one turn, as Anthropic documents."""
    system = [block for block in _text_blocks(request.system) if not _BILLING.fullmatch(block.text or "")]
    first = [MessageParam(role="system", content=system)] if system else []
    messages: list[dict[str, Any]] = []
    for role, turns in groupby([*first, *request.messages], key=lambda message: message.role):
        blocks = [block for turn in turns for block in turn.blocks]
        if role == "system":
            messages.append({"role": "system", "content": _text(blocks)})
        elif role == "user":
            messages += _user(blocks)
        else:
            messages += _assistant(blocks)
    return messages


def _user(blocks: list[ContentBlock]) -> list[dict[str, Any]]:
    """Put the results of tools before the user's text, next to the calls."""
    messages = [
        {
            "role": "tool",
            "tool_call_id": block.tool_use_id,
            "content": ("Error: " if block.is_error else "") + _text(_text_blocks(block.content)),
        }
        for block in blocks
        if block.type == "tool_result"
    ]
    if not messages or any(block.type == "text" for block in blocks):
        messages.append({"role": "user", "content": _text(blocks)})
    return messages


def _assistant(blocks: list[ContentBlock]) -> list[dict[str, Any]]:
    """Return a turn's chat message. A turn without content has none: the model then answers from the beginning."""
    text = _text(blocks)
    thoughts = [block.thinking or "" for block in blocks if block.type == "thinking"]
    calls = [
        {"id": block.id, "function": {"name": block.name, "arguments": block.input}}
        for block in blocks
        if block.type == "tool_use"
    ]
    if not (text or thoughts or calls):
        return []
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


def _text_blocks(content: str | list[TextBlock] | None) -> list[ContentBlock]:
    if isinstance(content, str):
        return [ContentBlock(type="text", text=content)]
    return [ContentBlock(type="text", text=block.text) for block in content or ()]


def _text(blocks: Iterable[ContentBlock]) -> str:
    return "\n".join(block.text or "" for block in blocks if block.type == "text")


def _is_prefill(last: MessageParam) -> bool:
    """Whether the answer continues the last message: it is the assistant's, and ends with text."""
    return (
        last.role == "assistant" and bool(last.blocks) and last.blocks[-1].type == "text" and bool(_text(last.blocks))
    )


def _tool_choice(choice: ToolChoiceParam | None) -> dict[str, Any]:
    if choice is None:
        return {}
    fields: dict[str, Any] = {}
    if choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    if choice.type == "tool":
        return {**fields, "tool_choice": {"type": "function", "function": {"name": choice.name}}}
    return {**fields, "tool_choice": "required" if choice.type == "any" else choice.type}


def _template_kwargs(request: CountTokensRequest) -> dict[str, Any]:
    if request.thinking is None:
        return request.chat_template_kwargs or {}
    thinks = request.thinking.type != "disabled"
    return {"enable_thinking": thinks, "thinking": thinks, **(request.chat_template_kwargs or {})}


def _output(request: CountTokensRequest) -> dict[str, Any]:
    config = request.output_config
    effort = config.effort if config else None
    form = (config.format if config else None) or request.output_format
    fields: dict[str, Any] = {}
    if effort is not None:
        fields["reasoning_effort"] = _EFFORTS.get(effort, effort)
    if form is not None:
        described = {"name": "output", "schema": form.json_schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": described}
    return fields
