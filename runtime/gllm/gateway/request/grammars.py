"""The grammar that a request asks for. Runs in the grammar thread: compiling what a client wrote may take seconds."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.gateway.request.chat_schema import ChatRequest
from gllm.gateway.request.message_schema import NamedTool
from gllm.gateway.request.prompts import tool_dicts
from gllm.gateway.request.schema import GUIDED_FIELDS, GenerationRequest
from gllm.gateway.served_model import ServedModel
from gllm.sampling_params import ParameterError


def needs_grammar(request: GenerationRequest) -> bool:
    if request.guides:
        return True
    return isinstance(request, ChatRequest) and request.uses_tools and (request.forces_tool or request.has_strict_tools)


def request_grammar(model: ServedModel, request: GenerationRequest) -> str | None:
    """A grammar that is known to compile, None if there is none. Raises ParameterError naming the field."""
    if request.guides:
        param = request.guides[0]
        grammar: str | None = _guided(model, request, param)
    elif isinstance(request, ChatRequest) and request.uses_tools:
        param = "tools"
        choice = request.tool_choice
        grammar = model.grammars.for_tools(
            tool_dicts(request.tools) or [],
            choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
            parallel=request.parallel_tool_calls is not False,
        )
    else:
        return None
    if grammar is not None:
        model.grammars.check(grammar, param=param)
    return grammar


def _guided(model: ServedModel, request: GenerationRequest, param: str) -> str:
    """The grammar of response_format, structured_outputs or a guided_* field."""
    make = model.grammars
    if param == "response_format":
        assert request.response_format is not None
        form = request.response_format.json_schema
        if form is None:
            return make.any_json_object()
        return make.from_json_schema(form.json_schema, param=param)
    if param == "structured_outputs":
        asked = request.structured_outputs
        assert asked is not None
        (kind,) = asked.kinds
        if kind == "json_object":
            return make.any_json_object()
        value: Any = asked.json_ if kind == "json" else getattr(asked, kind)
    else:
        kind = GUIDED_FIELDS[param]
        value = getattr(request, param)
    if kind == "json":
        return make.from_json_schema(_schema(param, value), param=param)
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
