"""Grammars for tool calls, in the format that the tool parser reads."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from gllm.sampling_params import ParameterError
from gllm.text.grammar.build import JSON_OPTIONS, grammar_from_lark, lark_string
from gllm.text.grammar.json_schema import checked_schema, moved
from gllm.text.tool_parsers import ToolFormat

_ANSWER = "answer"

MAX_CALLS = 16
"""Maximum number of calls in one answer that a grammar allows."""
_ANY_TEXT = r"/(.|\n)*/"
_TEXT_THAT_IS_NO_CALL = r"/([^\{\s](.|\n)*)?/"


def grammar_for_tools(
    tools: list[dict[str, Any]],
    choice: str | dict[str, Any],
    form: ToolFormat,
    *,
    parallel: bool = True,
    answer: str | None = None,
) -> str | None:
    """Return the grammar for OpenAI's `tools` and `tool_choice`; None if generation is free.

    * "required" forces one or more calls (one if not `parallel`), a named function exactly one call of it. Arguments
      follow the parameter schemas of the tools. The call comes at once: a reasoning model does not think first.
    * "auto" leaves the choice to the model: the grammar `answer` (of one part) or calls; without `answer`, any text
      with calls in it. Only arguments of tools with `strict` are constrained.
    * "none" constrains the answer only.

    form: the format of calls. Raises ParameterError.
    """
    functions = [_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    if choice == "none" or (choice == "auto" and answer is None and not any(tool.strict for tool in functions)):
        return answer
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        functions = [function for function in functions if function.name == name]
        if not functions:
            raise ParameterError("tool_choice", f"tool_choice names {name!r}, which is not among the tools")
    elif choice not in ("auto", "required"):
        raise ParameterError("tool_choice", 'tool_choice must be "none", "auto", "required" or name a function')
    if not functions:
        raise ParameterError("tools", f'tool_choice is "{choice}", but there are no tools')
    if choice != "auto" or answer is None:
        return grammar_from_lark(_lark(functions, choice, form, parallel, False), param="tools")
    (inner,) = json.loads(answer)["grammars"]
    if form.bare and inner.get("json_schema") is not None:
        return _answer_or_call(inner["json_schema"], functions, form)
    grammar = grammar_from_lark(_lark(functions, choice, form, parallel, True), param="tools")
    return json.dumps({"grammars": [*json.loads(grammar)["grammars"], {**inner, "name": _ANSWER}]})


def _answer_or_call(answer: dict[str, Any], functions: list[_Function], form: ToolFormat) -> str:
    """Return a grammar for JSON that is the answer or one call. Both begin with a brace, so they must be one schema."""
    options = answer.pop("x-guidance")
    parts = {_ANSWER: answer} | {
        f"arguments_{index}": _arguments_schema(function, True) for index, function in enumerate(functions)
    }
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function.name},
                form.arguments_key: {"$ref": f"#/$defs/arguments_{index}"},
            },
            "required": ["name", form.arguments_key],
            "additionalProperties": False,
        }
        for index, function in enumerate(functions)
    ]
    schema = {
        "anyOf": [*calls, {"$ref": f"#/$defs/{_ANSWER}"}],
        "$defs": {name: moved(part, f"#/$defs/{name}") for name, part in parts.items()},
        "x-guidance": options,
    }
    return json.dumps({"grammars": [{"json_schema": schema}]})


class _Function(NamedTuple):
    name: str
    strict: bool
    parameters: Any
    param: str
    """The path of the parameters in the request."""


def _function(tool: Any, where: str) -> _Function:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ParameterError("tools", f"{where} must have a function with a name")
    parameters = function.get("parameters")
    return _Function(function["name"], bool(function.get("strict")), parameters, f"{where}.function.parameters")


def _lark(
    functions: list[_Function], choice: str | dict[str, Any], form: ToolFormat, parallel: bool, answer: bool
) -> str:
    """Return the Lark text. answer: the alternative to calls is the grammar @answer instead of free text."""
    free = choice == "auto" and not answer
    most = 1 if isinstance(choice, dict) or not parallel else MAX_CALLS
    between = f"{form.separator} " if form.separator else "\n"
    again = f" ({lark_string(between)} call){{0,{most - 1}}}" if most > 1 else ""
    rules = []
    if answer:
        rules.append(f"start: @{_ANSWER} | call{again}")
    elif free and form.bare:
        rules += [f"start: TEXT | call{again}", f"TEXT: {_TEXT_THAT_IS_NO_CALL}"]
    elif free:
        # The lazy rule ends at the first opening tag. From there on the call is constrained.
        rules += [
            f"start: (opened body){{0,{most}}} TEXT",
            f"opened[lazy]: TEXT {lark_string(form.open_tag)}",
            f"TEXT: {_ANY_TEXT}",
        ]
    else:
        rules.append(f"start: call{again}")
    if form.bare:
        rules.append("call: object")
    else:
        rules += [f"call: {lark_string(form.open_tag)} body"] * (not free)
        rules.append(f"body: {lark_string(chr(10))} object {lark_string(chr(10) + form.close_tag)}")
    rules.append("object: " + " | ".join(f"call_{index}" for index in range(len(functions))))
    for index, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name, ensure_ascii=False)}, "{form.arguments_key}": '
        schema = json.dumps(_arguments_schema(function, choice == "auto") | {"x-guidance": JSON_OPTIONS})
        rules += [f'call_{index}: {lark_string(head)} arguments_{index} "}}"', f"arguments_{index}: %json {schema}"]
    return "\n".join(rules) + "\n"


def _arguments_schema(function: _Function, only_strict: bool) -> dict[str, Any]:
    """Return the schema of the arguments. As with OpenAI, a function without `parameters` takes none."""
    parameters = function.parameters
    if only_strict and not function.strict:
        parameters = {"type": "object"}
    elif parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise ParameterError(
            function.param, f"{function.param}: the parameters of {function.name!r} must be a schema of type object"
        )
    return checked_schema({"type": "object", **parameters}, param=function.param)
