"""Template and tokens of a request. Everything here runs in the text threads, off the event loop."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.gateway.errors import bad_request, context_too_long
from gllm.gateway.request.chat_schema import ChatRequest
from gllm.gateway.request.completion_schema import CompletionRequest
from gllm.gateway.request.message_schema import ChatMessage, Tool, template_messages
from gllm.gateway.request.schema import GenerationRequest
from gllm.gateway.served_model import ServedModel
from gllm.text.chat_template import check_template_kwargs
from gllm.text.tokenizer import TooManyTokensError


def tool_dicts(tools: list[Tool] | None) -> list[dict[str, Any]] | None:
    return [tool.model_dump(exclude_none=True) for tool in tools] if tools else None


def render_chat(
    model: ServedModel,
    messages: list[ChatMessage],
    *,
    tools: list[Tool] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
    template_kwargs: dict[str, Any] | None = None,
    reasoning_effort: str | None = None,
) -> str:
    """Raises ApiError and ParameterError."""
    if model.template is None:
        raise bad_request(
            "messages", "this model has no chat template; start the server with --chat-template, or use /v1/completions"
        )
    check_template_kwargs(template_kwargs or ())
    if add_generation_prompt is None:
        add_generation_prompt = not continue_final_message
    return model.template.render(
        template_messages(messages),
        tools=tool_dicts(tools),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        **{**_effort(reasoning_effort), **(template_kwargs or {})},
    )


def _effort(reasoning_effort: str | None) -> dict[str, Any]:
    """The template arguments that stand for an effort: a template reads one of them, or none."""
    if reasoning_effort is None:
        return {}
    thinking = {"enable_thinking": False, "thinking": False} if reasoning_effort == "none" else {}
    return {"reasoning_effort": reasoning_effort, **thinking}


def encode(model: ServedModel, text: str, add_special_tokens: bool, max_model_len: int, param: str) -> list[int]:
    """Token ids; refuses at once a text that is too long however it is tokenised."""
    if len(text) > max_model_len * model.longest_token:
        raise context_too_long(
            f"The prompt has {len(text)} characters, which cannot fit the context of {max_model_len} tokens.", param
        )
    try:
        ids = model.tokenizer.encode(text, add_special_tokens=add_special_tokens, max_tokens=max_model_len)
    except TooManyTokensError as error:
        raise context_too_long(
            f"The prompt has {error.count} tokens; the context has {max_model_len}, and one is for the answer.", param
        ) from None
    except ValueError as error:
        raise bad_request(param, str(error), "invalid_value") from error
    if not ids:
        raise bad_request(param, "the prompt is empty", "invalid_value")
    return ids


class Prompt(msgspec.Struct):
    text: str
    """Empty if it came as token ids and is not echoed."""
    token_ids: list[int]


def prompts_of(model: ServedModel, request: GenerationRequest, max_model_len: int) -> list[Prompt]:
    """Every prompt of a request. Raises ApiError."""
    if isinstance(request, ChatRequest):
        return [_chat_prompt(model, request, max_model_len)]
    assert isinstance(request, CompletionRequest)
    return [_completion_prompt(model, request, prompt, max_model_len) for prompt in request.prompts]


def _chat_prompt(model: ServedModel, request: ChatRequest, max_model_len: int) -> Prompt:
    if request.uses_tools and model.tool_parser is None and not request.forces_tool:
        raise bad_request(
            "tools",
            "the format in which this model calls tools is not known; start the server with --tool-parser hermes or "
            "llama, or send tool_choice 'required' or 'none'",
            "unsupported_parameter",
        )
    text = render_chat(
        model,
        request.messages,
        tools=request.tools if request.uses_tools else None,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=bool(request.continue_final_message),
        template_kwargs=request.chat_template_kwargs,
        reasoning_effort=request.reasoning_effort,
    )
    return Prompt(text, encode(model, text, bool(request.add_special_tokens), max_model_len, "messages"))


def _completion_prompt(
    model: ServedModel, request: CompletionRequest, prompt: str | list[int], max_model_len: int
) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(prompt, encode(model, prompt, request.add_special_tokens is not False, max_model_len, "prompt"))
    model.check_token_ids(prompt, "prompt")
    return Prompt(model.tokenizer.decode(prompt, skip_special_tokens=False) if request.echo else "", prompt)
