"""Grammars for tool calls, in the syntax that the parser in use reads back."""

from __future__ import annotations

import json
from typing import Any

from gllm.sampling_params import ParameterError
from gllm.text.grammar.build import JSON_OPTIONS, grammar_from_lark, lark_string
from gllm.text.grammar.json_schema import checked_schema
from gllm.text.tool_parsers import ToolFormat, ToolParser

MAX_CALLS = 16
"""Calls in one answer that a grammar allows."""
_ANY_TEXT = r"/(.|\n)*/"
_TEXT_THAT_IS_NO_CALL = r"/([^\{\s](.|\n)*)?/"


def grammar_for_tools(
    tools: list[dict[str, Any]],
    choice: str | dict[str, Any],
    parser: ToolParser | None,
    *,
    parallel: bool = True,
) -> str | None:
    """The grammar for OpenAI's `tools` and `tool_choice`; None where generation stays free.

    "required" forces one or more calls (one if not `parallel`), a named function exactly one call of it; arguments
    follow the tools' parameter schemas. "auto" leaves the choice to the model and constrains only what it writes
    inside calls, if any tool says `strict`; "none" constrains nothing. A forced call comes at once: a reasoning
    model does not think first. `parser` says in which syntax; nothing is parsed. Raises ParameterError.
    """
    functions = [_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    if choice == "none" or (choice == "auto" and not any(function.get("strict") for function in functions)):
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        functions = [function for function in functions if function["name"] == name]
        if not functions:
            raise ParameterError("tool_choice", f"tool_choice names {name!r}, which is not among the tools")
    elif choice not in ("auto", "required"):
        raise ParameterError("tool_choice", 'tool_choice must be "none", "auto", "required" or name a function')
    if not functions:
        raise ParameterError("tools", f'tool_choice is "{choice}", but there are no tools')
    if parser is None:
        raise ParameterError(
            "tools",
            "this model's chat template shows no known form of tool calls; start the server with --tool-parser",
        )
    return grammar_from_lark(_lark(functions, choice, parser.format, parallel), param="tools")


def _function(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ParameterError("tools", f"{where} must have a function with a name")
    return function


def _lark(functions: list[dict[str, Any]], choice: str | dict[str, Any], form: ToolFormat, parallel: bool) -> str:
    most = 1 if isinstance(choice, dict) or not parallel else MAX_CALLS
    between = f"{form.separator} " if form.separator else "\n"
    again = f" ({lark_string(between)} call){{0,{most - 1}}}" if most > 1 else ""
    rules = []
    if choice == "auto" and form.bare:
        rules += [f"start: TEXT | call{again}", f"TEXT: {_TEXT_THAT_IS_NO_CALL}"]
    elif choice == "auto":
        # The lazy rule ends at the first opening tag, from where on the call is constrained.
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
        opening = "" if choice == "auto" else f"{lark_string(form.open_tag)} "
        rules += [f"call: {opening}body"] * (choice != "auto")
        rules.append(f"body: {lark_string(chr(10))} object {lark_string(chr(10) + form.close_tag)}")
    rules.append("object: " + " | ".join(f"call_{index}" for index in range(len(functions))))
    for index, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "{form.arguments_key}": '
        schema = json.dumps(_arguments_schema(function, choice == "auto"))
        rules += [f'call_{index}: {lark_string(head)} arguments_{index} "}}"', f"arguments_{index}: %json {schema}"]
    return "\n".join(rules) + "\n"


def _arguments_schema(function: dict[str, Any], only_strict: bool) -> dict[str, Any]:
    """What the arguments must be. Without `parameters` a function takes none, says OpenAI."""
    parameters = function.get("parameters")
    if only_strict and not function.get("strict"):
        parameters = {"type": "object"}
    elif parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise ParameterError("tools", f"the parameters of {function['name']!r} must be a schema of type object")
    return checked_schema({"type": "object", **parameters}, param="tools") | {"x-guidance": JSON_OPTIONS}
