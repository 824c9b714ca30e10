"""Builds the grammar of a request. Runs in the grammar thread, because compilation may take seconds."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.constraints import GUIDED_FIELDS
from gllm.gateway.protocol.generation_schema import GenerationRequest
from gllm.gateway.protocol.message_schema import NamedTool, Tool
from gllm.gateway.request.prompt_encoding import tool_dicts
from gllm.gateway.shared.served_model import ServedModel
from gllm.sampling_params import ParameterError


def grammar_param(request: GenerationRequest) -> str | None:
    """Return the field that needs a grammar, for errors of the grammar; None if there is no such field."""
    if isinstance(request, ChatRequest) and request.uses_tools and request.forces_tool:
        return "tools"
    if request.guides:
        return request.guides[0]
    return "tools" if isinstance(request, ChatRequest) and request.uses_tools and request.has_strict_tools else None


def request_grammar(model: ServedModel, request: GenerationRequest) -> str | None:
    """Return a grammar that compiles; None if there is none. Raises ParameterError, which names the field.

    With a forced tool call there is no answer to constrain. Otherwise the answer is constrained, and calls stay
    possible.
    """
    answer = None
    if request.guides:
        param = request.guides[0]
        answer = _guided(model, request, param)
        model.grammars.check(answer, param=param)
    if not (isinstance(request, ChatRequest) and request.uses_tools):
        return answer
    grammar = model.grammars.for_tools(
        tool_dicts(request.tools) or [],
        request.tool_choice.model_dump()
        if isinstance(request.tool_choice, NamedTool)
        else request.tool_choice or "auto",
        parallel=request.parallel_tool_calls is not False,
        answer=answer,
    )
    if grammar is not None:
        _check_tools(model, request.tools or [], grammar)
    return grammar


def _check_tools(model: ServedModel, tools: list[Tool], grammar: str) -> None:
    """Check the grammar of the tools. An error names the tool that causes it."""
    make = model.grammars
    try:
        make.check(grammar, param="tools")
    except ParameterError:
        for index, tool in enumerate(tools):
            where = f"tools[{index}].function.parameters"
            make.check(make.from_json_schema(tool.function.parameters or {}, param=where), param=where)
        raise ParameterError(
            "tools", "tools: together they are too complex; send fewer tools, or simpler parameters"
        ) from None


def _guided(model: ServedModel, request: GenerationRequest, param: str) -> str:
    """Return the grammar of response_format, structured_outputs or a guided_* field."""
    make, asked = model.grammars, request.structured_outputs
    compact = bool(asked and asked.disable_any_whitespace)
    if param == "response_format":
        assert request.response_format is not None
        form = request.response_format.json_schema
        if form is None:
            return make.any_json_object(compact=compact)
        return make.from_json_schema(form.json_schema, compact=compact, param=param)
    if param == "structured_outputs":
        assert asked is not None
        (kind,) = asked.kinds
        if kind == "json_object":
            return make.any_json_object(compact=compact)
        value: Any = asked.json_ if kind == "json" else getattr(asked, kind)
    else:
        kind = GUIDED_FIELDS[param]
        value = getattr(request, param)
    if kind == "json":
        return make.from_json_schema(_schema(param, value), compact=compact, param=param)
    if kind == "regex":
        return make.from_regex(value, param=param)
    if kind == "choice":
        return make.from_choices(value, param=param)
    return make.from_text(value, param=param)


def _schema(param: str, value: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ParameterError(param, f"{param} is not a JSON schema object: {error}") from error
