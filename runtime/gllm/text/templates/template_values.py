"""Values of a chat history that templates read in two ways: each template gets the way that it was written for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


class NoText(str):
    """The content of a message that has none: `none` for a template that asks, an empty string for one that does not.

    The template environment's test `none` knows it.
    """

    def __new__(cls) -> NoText:
        return super().__new__(cls, "")

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class ToolArguments(dict[str, Any]):
    """The arguments of a tool call: an object for a template that iterates over them or calls `tojson`, JSON text
    for one that prints or concatenates them. Names of attributes begin with _, since templates look keys up as such.
    """

    def __init__(self, values: dict[str, Any], text: str, *, is_text: bool = False) -> None:
        """is_text: the template environment's test `string` says yes: the text stands for no object."""
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
    """From JSON text as a model wrote it, or what it stands for.

    Text that is no JSON object, for example because it was cut off, is shown as it is, or as {"raw": text}.
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
    """A copy whose text and values went through `change`."""
    return ToolArguments(change(dict(arguments)), change(arguments._text), is_text=arguments._is_text)


def is_none(value: Any) -> bool:
    """Jinja's test `none`."""
    return value is None or isinstance(value, NoText)


def is_string(value: Any) -> bool:
    """Jinja's test `string`."""
    return isinstance(value, str) or (isinstance(value, ToolArguments) and value._is_text)
