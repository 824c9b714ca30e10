"""Tools for a model whose chat template does not read them: as a system text, and calls in the history as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2 import meta

from gllm.sampling_params import ParameterError
from gllm.text.templates.chat_messages import parse_template
from gllm.text.templates.template_environment import TemplateEnvironment
from gllm.text.tool_parsers import ToolFormat

if TYPE_CHECKING:
    from gllm.text.templates.chat_template import ChatTemplate


def reads_tools(source: str) -> bool:
    """Whether a chat template reads `tools`."""
    return "tools" in meta.find_undeclared_variables(parse_template(TemplateEnvironment(), source))


class ToolsInSystemText:
    """A chat template that gets tools, calls and results as plain text, in the format of the parser."""

    def __init__(self, template: ChatTemplate, tool_format: ToolFormat) -> None:
        self._template = template
        self.source = template.source
        self._format = tool_format

    def render(
        self, messages: list[dict[str, Any]], /, *, tools: list[dict[str, Any]] | None = None, **arguments: Any
    ) -> str:
        """See `ChatTemplate.render`. A template that shows calls but not tools gets the history unchanged."""
        shown = self._template.shows_calls
        plain = messages if shown else _merged_results([self._plain(message) for message in messages])
        if not tools:
            return self._template.render(plain, **arguments)
        text = self._describe(tools)
        try:
            return self._template.render(_with_system_text(plain, text), **arguments)
        except ParameterError:
            if messages[0].get("role") != "user":
                raise
            # Some templates have no system role.
            first = {**plain[0], "content": f"{text}\n\n{_text(plain[0].get('content'))}"}
            return self._template.render([first, *plain[1:]], **arguments)

    def _describe(self, tools: list[dict[str, Any]]) -> str:
        listed = "\n".join(_json(tool.get("function", tool)) for tool in tools)
        example = self._call("the name of the tool", {"argument": "value"})
        return (
            "You can call tools. Each line between <tools> and </tools> describes one tool as JSON: its name, what it "
            f"is for, and the JSON schema of its arguments.\n<tools>\n{listed}\n</tools>\n"
            "To call a tool, write nothing but its name and arguments as JSON, in this form:\n"
            f"{example}\n"
            "The result comes back between <tool_response> and </tool_response>."
        )

    def _call(self, name: str, arguments: Any) -> str:
        head, key = json.dumps(name, ensure_ascii=False), json.dumps(self._format.arguments_key)
        # Arguments that a client sends back are text, which may not be valid JSON.
        text = f'{{"name": {head}, {key}: {arguments if isinstance(arguments, str) else _json(arguments)}}}'
        return text if self._format.bare else f"{self._format.open_tag}\n{text}\n{self._format.close_tag}"

    def _plain(self, message: dict[str, Any]) -> dict[str, Any]:
        """Make the calls of the assistant part of its text, and the result of a tool a turn of the user."""
        if message.get("role") == "tool":
            text = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
            return {"role": "user", "content": text}
        calls = message.get("tool_calls")
        if not calls:
            return message
        functions = [call.get("function", {}) for call in calls]
        parts = [_text(message.get("content"))]
        parts += [self._call(function.get("name", ""), function.get("arguments") or {}) for function in functions]
        rest = {key: value for key, value in message.items() if key not in ("tool_calls", "content")}
        return {**rest, "content": "\n".join(part for part in parts if part)}


def _with_system_text(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0].get("role") in ("system", "developer"):
        first = {**messages[0], "content": f"{_text(messages[0].get('content'))}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _merged_results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge successive turns of the user: the results of several calls, and a message of the user after them."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        before = merged[-1] if merged else {}
        if message.get("role") == before.get("role") == "user" and "<tool_response>" in _text(before.get("content")):
            merged[-1] = {**before, "content": f"{_text(before['content'])}\n{_text(message.get('content'))}"}
        else:
            merged.append(message)
    return merged


def _text(content: Any) -> str:
    """Return the content of a message as text; the content may be a list of text parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return content if isinstance(content, str) else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
