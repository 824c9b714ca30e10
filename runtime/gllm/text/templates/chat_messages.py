"""OpenAI's chat messages in the form that a chat template expects. Every error names the message."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple

import jinja2
from jinja2 import nodes

from gllm.sampling_params import ParameterError
from gllm.text.templates.template_values import NoText, tool_arguments

ContentFormat = Literal["string", "parts", "both"]
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The keys under which clients and templates have the reasoning of a message, the usual one first."""

_SHORT_ID = 9


class TemplateTraits(NamedTuple):
    """The form of messages that a template expects, from its syntax tree."""

    content: ContentFormat
    reasoning_key: str
    short_call_ids: bool
    """Whether the ids of tool calls must have nine letters and digits, as in Mistral's templates."""
    developer: bool
    """Whether the template has the role `developer`; otherwise such messages get the role `system`."""


def template_traits(tree: nodes.Template) -> TemplateTraits:
    read = {node.attr for node in tree.find_all(nodes.Getattr)}
    read |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    reasoning_key = next((key for key in REASONING_KEYS if key in read), REASONING_KEYS[0])
    short_ids = any(_compares_length_with_9(node) for node in tree.find_all(nodes.Compare))
    return TemplateTraits(content_format(tree), reasoning_key, short_ids, developer="developer" in read)


def _compares_length_with_9(node: nodes.Compare) -> bool:
    operand = node.ops[0].expr
    is_length = isinstance(node.expr, nodes.Filter) and node.expr.name == "length"
    return is_length and isinstance(operand, nodes.Const) and operand.value == _SHORT_ID


def content_format(tree: nodes.Template) -> ContentFormat:
    """Return how a template expects `content`: as a string, as a list of parts, or either.

    A template that loops over the content of a message expects parts; if it also tests for strings, it takes both.
    """
    aliases = {"content"}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _names_content(assignment.node, {"content"}):
            aliases.add(assignment.target.name)
    if not any(_names_content(loop.iter, aliases) for loop in tree.find_all(nodes.For)):
        return "string"
    tests_strings = any(
        test.name == "string" and _names_content(test.node, aliases) for test in tree.find_all(nodes.Test)
    )
    return "both" if tests_strings else "parts"


def _names_content(node: nodes.Node, aliases: set[str]) -> bool:
    if isinstance(node, nodes.Name):
        return node.name in aliases
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def normalise_messages(messages: list[dict[str, Any]], traits: TemplateTraits) -> list[dict[str, Any]]:
    """Return copies of the messages with checked roles, and with content and ids as the template expects them.

    Fields that are None are dropped, because templates test `'tool_calls' in message`. A missing content becomes
    `NoText`, the arguments of a call `ToolArguments`. Raises ParameterError("messages").
    """
    if not messages:
        raise _error("messages must not be empty")
    return [_normalise(message, f"messages[{index}]", traits) for index, message in enumerate(messages)]


def _normalise(message: dict[str, Any], where: str, traits: TemplateTraits) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _error(f"{where} must be an object with a role")
    result = {key: value for key, value in message.items() if value is not None}
    if result["role"] == "developer" and not traits.developer:
        result["role"] = "system"
    result["content"] = _content(message.get("content"), f"{where}.content", traits.content)
    reasonings = [result.pop(key) for key in REASONING_KEYS if key in result]
    if reasonings:
        result[traits.reasoning_key] = reasonings[0]
    if "tool_calls" in result:
        calls = result["tool_calls"]
        if not isinstance(calls, list):
            raise _error(f"{where}.tool_calls must be a list")
        if calls:
            result["tool_calls"] = [
                _tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)
            ]
        else:
            del result["tool_calls"]
    if traits.short_call_ids:
        _shorten_ids(result)
    return result


def _shorten_ids(message: dict[str, Any]) -> None:
    if isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = _short_id(message["tool_call_id"])
    for call in message.get("tool_calls", ()):
        if isinstance(call.get("id"), str):
            call["id"] = _short_id(call["id"])


def _short_id(call_id: str) -> str:
    """Return nine letters and digits. Equal ids give equal results."""
    if len(call_id) == _SHORT_ID and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:_SHORT_ID]


def calls_apart(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put calls that stand beside a text into a message after it, for templates that show calls without a text only."""
    apart: list[dict[str, Any]] = []
    for message in messages:
        if has_text_and_calls(message):
            if message["content"]:
                apart.append({key: value for key, value in message.items() if key != "tool_calls"})
            message = {"role": message["role"], "content": NoText(), "tool_calls": message["tool_calls"]}
        apart.append(message)
    return apart


def has_text_and_calls(message: dict[str, Any]) -> bool:
    """Whether a message for a template has tool calls and a text, which may be empty."""
    return "tool_calls" in message and not isinstance(message["content"], NoText)


def _content(content: Any, where: str, form: ContentFormat) -> Any:
    if content is None:
        content = NoText()
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form == "parts" else content
    if not isinstance(content, list):
        raise _error(f"{where} must be a string or a list of text parts")
    texts = []
    for index, part in enumerate(content):
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise _error(f'{where}[{index}] must be {{"type": "text", "text": ...}}: only text is supported')
        texts.append(part["text"])
    if form == "string":
        return "\n".join(texts)
    return [{"type": "text", "text": text} for text in texts]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _error(f"{where} must have a function with a name")
    return {
        "type": "function",
        **call,
        "function": {**function, "arguments": tool_arguments(function.get("arguments"))},
    }


def _error(message: str) -> ParameterError:
    return ParameterError("messages", message)


def parse_template(environment: jinja2.Environment, source: str) -> nodes.Template:
    """Return the syntax tree of a template. Raises ValueError with the line if it is not valid Jinja."""
    try:
        return environment.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat template, line {error.lineno}: {error.message}") from error
