"""Template, tokens and grammar of a request. Everything here runs in the text threads, off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gllm.gateway.errors import bad_request, context_too_long
from gllm.gateway.schema_base import GenerationRequest
from gllm.gateway.schema_chat import ChatMessage, ChatRequest, NamedTool, Tool
from gllm.gateway.served_model import ServedModel
from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError


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
) -> str:
    if model.template is None:
        raise bad_request(
            "messages", "this model has no chat template; start the server with --chat-template, or use /v1/completions"
        )
    for key in template_kwargs or ():
        if key not in model.template_variables:
            raise bad_request(f"chat_template_kwargs.{key[:64]}", f"the model's template does not use '{key[:64]}'",
                              "unsupported_parameter")  # fmt: skip
    if add_generation_prompt is None:
        add_generation_prompt = not continue_final_message
    return model.template.render(
        [message.for_template() for message in messages],
        tools=tool_dicts(tools),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        **(template_kwargs or {}),
    )


def encode(model: ServedModel, text: str, add_special_tokens: bool, max_model_len: int, param: str) -> list[int]:
    """Token ids; refuses at once a text that is too long however it is tokenised."""
    if len(text) > max_model_len * model.longest_token:
        raise context_too_long(
            f"The prompt has {len(text)} characters, which cannot fit the context of {max_model_len} tokens.", param
        )
    try:
        ids = model.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    except ValueError as error:
        raise bad_request(param, str(error), "invalid_value") from error
    if not ids:
        raise bad_request(param, "the prompt is empty", "invalid_value")
    return ids


class ChatPrompt(msgspec.Struct):
    text: str
    token_ids: list[int]
    grammar: str | None


def chat_prompt(model: ServedModel, request: ChatRequest, max_model_len: int) -> ChatPrompt:
    """What the engine needs of a chat request."""
    if request.uses_tools and model.tool_parser is None:
        raise bad_request(
            "tools",
            "the format of this model's tool calls is not known; start the server with --tool-parser hermes or llama, "
            "or send tool_choice 'none'",
            "unsupported_parameter",
        )
    text = render_chat(
        model,
        request.messages,
        tools=request.tools if request.uses_tools else None,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=bool(request.continue_final_message),
        template_kwargs=request.chat_template_kwargs,
    )
    ids = encode(model, text, bool(request.add_special_tokens), max_model_len, "messages")
    return ChatPrompt(text, ids, _chat_grammar(model, request))


def _chat_grammar(model: ServedModel, request: ChatRequest) -> str | None:
    if not request.forces_tool:
        return guided_grammar(model, request)
    tools = tool_dicts(request.tools) or []
    choice = request.tool_choice
    forced = choice.model_dump() if isinstance(choice, NamedTool) else "required"
    return checked(model, "tools", lambda: model.grammars.for_tools(tools, forced))


def completion_prompt(model: ServedModel, prompt: str | list[int], add_special: bool, max_model_len: int) -> list[int]:
    if isinstance(prompt, str):
        return encode(model, prompt, add_special, max_model_len, "prompt")
    model.check_token_ids(prompt, "prompt")
    return prompt


def guided_grammar(model: ServedModel, request: GenerationRequest) -> str | None:
    """The grammar of response_format, structured_outputs or a guided_* field; None if there is none."""
    make = model.grammars
    if not request.guides:
        return None
    param = request.guides[0]
    if param == "response_format":
        form = request.response_format
        assert form is not None
        if form.json_schema is None:
            return checked(model, param, make.any_json_object)
        schema = form.json_schema.json_schema
        return checked(model, param, lambda: make.from_json_schema(schema))
    if param == "structured_outputs":
        asked = request.structured_outputs
        assert asked is not None
        if asked.json_object:
            return checked(model, param, make.any_json_object)
        kind = next((k for k in ("regex", "choice", "grammar") if getattr(asked, k) is not None), "json")
        value: Any = asked.json_ if kind == "json" else getattr(asked, kind)
    else:
        kind = param.removeprefix("guided_")
        value = getattr(request, param)
    if kind == "json":
        return checked(model, param, lambda: make.from_json_schema(_schema(param, value)))
    if kind == "regex":
        return checked(model, param, lambda: make.from_regex(value))
    if kind == "grammar":
        return checked(model, param, lambda: make.from_lark(value))
    return checked(model, param, lambda: make.from_lark(choice_grammar(value)))


def choice_grammar(choices: list[str]) -> str:
    """Lark text that matches exactly one of the strings. Lark's string escapes are JSON's."""
    return "start: " + " | ".join(msgspec.json.encode(choice).decode() for choice in choices)


def checked(model: ServedModel, param: str, build: Callable[[], str]) -> str:
    """Build a grammar and compile it once, so that what the engine gets is known to work. Errors name `param`."""
    try:
        grammar = build()
        if len(grammar) > MAX_GRAMMAR_BYTES:
            raise bad_request(param, f"{param} makes a grammar of more than {MAX_GRAMMAR_BYTES} bytes", "invalid_value")
        model.grammars.check(grammar)
    except ParameterError as error:
        raise bad_request(param, str(error), "invalid_value") from error
    return grammar


def _schema(param: str, value: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise bad_request(param, f"{param} is not a JSON schema object: {error}", "invalid_value") from error
