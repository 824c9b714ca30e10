"""Values of a chat history that templates read in two ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


class NoText(str):
    """The content of a message without content: `none` for a template that tests for it, else an empty string.

    The test `none` of the template environment accepts it.
    """

    def __new__(cls) -> NoText:
        return super().__new__(cls, "")

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class ToolArguments(dict[str, Any]):
    """The arguments of a tool call: an object for templates that iterate over them or call `tojson`, JSON text for
    templates that print or concatenate them. Attributes begin with _, because templates look up keys as attributes.
    """

    def __init__(self, values: dict[str, Any], text: str, *, is_text: bool = False) -> None:
        """is_text: the text is not a JSON object, and the test `string` of the template environment accepts it."""
        super().__init__(values)
        self._text = text
        self._is_text = is_text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: Any) -> str:
        return self._text + str(other)

    def __radd__(self, other: Any) -> str:
        return str(other) + self._text


def tool_arguments(given: Any) -> ToolArguments:
    """Make the arguments from JSON text or from the object itself.

    Text that is not a JSON object, for example because it was cut off, is printed as it is; as an object it is
    {"raw": text}.
    """
    if isinstance(given, dict):
        return ToolArguments(given, json.dumps(given, ensure_ascii=False))
    text = given if isinstance(given, str) else "{}" if given is None else json.dumps(given, ensure_ascii=False)
    try:
        values = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        values = text
    if values is None:
        values = {}
    if isinstance(values, dict):
        return ToolArguments(values, text)
    return ToolArguments({"raw": text}, text, is_text=True)


def map_arguments(arguments: ToolArguments, change: Callable[[Any], Any]) -> ToolArguments:
    """Return a copy with `change` applied to text and values."""
    return ToolArguments(change(dict(arguments)), change(arguments._text), is_text=arguments._is_text)


def is_none(value: Any) -> bool:
    """Jinja's test `none`."""
    return value is None or isinstance(value, NoText)


def is_string(value: Any) -> bool:
    """Jinja's test `string`."""
    return isinstance(value, str) or (isinstance(value, ToolArguments) and value._is_text)
