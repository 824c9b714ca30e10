"""Renders the template and tokenizes the prompts of a request. All of it runs in the text threads."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.completion_schema import CompletionRequest
from gllm.gateway.protocol.errors import bad_request, prompt_too_long
from gllm.gateway.protocol.generation_schema import GenerationRequest
from gllm.gateway.protocol.message_schema import ChatMessage, Tool, template_messages
from gllm.gateway.shared.served_model import ServedModel
from gllm.sampling_params import MAX_BAD_WORD_CHARS, ParameterError
from gllm.text.request_tokens import Truncation, bad_word_ids, truncation_for
from gllm.text.templates.chat_template import check_template_kwargs
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
    """Render the messages. Raises ApiError or ParameterError."""
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
    """Return the template arguments for a reasoning effort: a template reads one of them, or none."""
    if reasoning_effort is None:
        return {}
    thinking = {"enable_thinking": False, "thinking": False} if reasoning_effort == "none" else {}
    return {"reasoning_effort": reasoning_effort, **thinking}


def encode(
    model: ServedModel,
    text: str,
    add_special_tokens: bool,
    max_model_len: int,
    param: str,
    truncation: Truncation | None = None,
) -> list[int]:
    """Return the token ids.

    Refuses a text that is certainly too long before it is tokenized, unless it is to be truncated.
    """
    if truncation is not None:
        leading = model.tokenizer.encode("", add_special_tokens=add_special_tokens)
        return truncation.cut(_encode(model, text, add_special_tokens, None, param), leading)
    if len(text) > max_model_len * model.longest_token:
        raise prompt_too_long(f"{len(text)} characters", max_model_len, param)
    return _encode(model, text, add_special_tokens, max_model_len, param)


def _encode(
    model: ServedModel, text: str, add_special_tokens: bool, max_model_len: int | None, param: str
) -> list[int]:
    try:
        ids = model.tokenizer.encode(text, add_special_tokens=add_special_tokens, max_tokens=max_model_len)
    except TooManyTokensError as error:
        assert max_model_len is not None
        raise prompt_too_long(f"{error.count} tokens", max_model_len, param) from None
    except ValueError as error:
        raise bad_request(param, str(error), "invalid_value") from error
    if not ids:
        raise bad_request(param, "the prompt is empty", "invalid_value")
    return ids


class Prompt(msgspec.Struct):
    text: str
    """Empty if the prompt came as token ids and is not echoed."""
    token_ids: list[int]


def bad_words_of(model: ServedModel, request: GenerationRequest) -> tuple[tuple[int, ...], ...]:
    """Return the token sequences that the request forbids. Raises ApiError or ParameterError."""
    if not request.bad_words:
        return ()
    if sum(map(len, request.bad_words)) > MAX_BAD_WORD_CHARS:
        raise ParameterError("bad_words", f"all bad_words together must not exceed {MAX_BAD_WORD_CHARS} characters")
    try:
        runs = bad_word_ids(model.tokenizer.encode, request.bad_words)
    except ValueError as error:
        raise bad_request("bad_words", str(error), "invalid_value") from error
    model.check_token_ids([token for run in runs for token in run], "bad_words")
    return runs


def prompts_of(model: ServedModel, request: GenerationRequest, max_model_len: int) -> list[Prompt]:
    """Return all prompts of a request. Raises ApiError."""
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
    truncation = _truncation(request, max_model_len)
    ids = encode(model, text, bool(request.add_special_tokens), max_model_len, "messages", truncation)
    return Prompt(text, ids)


def _completion_prompt(
    model: ServedModel, request: CompletionRequest, prompt: str | list[int], max_model_len: int
) -> Prompt:
    truncation = _truncation(request, max_model_len)
    leading = 0
    if isinstance(prompt, str):
        special = request.add_special_tokens is not False
        ids = encode(model, prompt, special, max_model_len, request.prompt_field, truncation)
        if truncation is None or len(ids) < truncation.keep:
            return Prompt(prompt, ids)
        while ids[leading] in model.tokenizer.special_token_ids and leading < len(ids) - 1:
            leading += 1
    else:
        model.check_token_ids(prompt, request.prompt_field)
        ids = prompt if truncation is None else truncation.cut(prompt, [])
    text = model.tokenizer.decode(ids[leading:], skip_special_tokens=False) if request.echo else ""
    return Prompt(text, ids)


def _truncation(request: GenerationRequest, max_model_len: int) -> Truncation | None:
    side = request.truncation_side or "left"
    return truncation_for(request.truncate_prompt_tokens, side, request.output_limit, max_model_len)
