"""Reads one tool call, {"name": ..., "arguments": ...}, with constant work for each character."""

from __future__ import annotations

import enum
import json

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_SPACE = frozenset(" \t\r\n")
# Models write raw line breaks inside strings.
_DECODER = json.JSONDecoder(strict=False)


class Progress(enum.Enum):
    MORE = enum.auto()
    """The character is taken; the value goes on."""
    DONE = enum.auto()
    """The character is taken; it is the last one."""
    ENDED = enum.auto()
    """The character is not taken; the value ended before it."""
    REJECTED = enum.auto()
    """The character is not taken; it is not valid."""


class _String:
    """Finds the end of a JSON string."""

    def __init__(self) -> None:
        self._escaped = False
        self._opened = False

    def feed(self, char: str) -> Progress:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            if self._opened:
                return Progress.DONE
            self._opened = True
        return Progress.MORE


class _Container:
    """Finds the end of a JSON object or array: brackets outside strings must match, the rest is not checked."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._string: _String | None = None

    def feed(self, char: str) -> Progress:
        if self._string is not None:
            if self._string.feed(char) is Progress.DONE:
                self._string = None
        elif char == '"':
            self._string = _String()
            self._string.feed(char)
        elif char in "{[":
            self._closers.append("}" if char == "{" else "]")
        elif char in "}]":
            if self._closers[-1] != char:
                return Progress.REJECTED
            self._closers.pop()
            if not self._closers:
                return Progress.DONE
        return Progress.MORE


class _Word:
    """Finds the end of a number, true, false or null: the character after it."""

    def feed(self, char: str) -> Progress:
        if char in _SPACE or char in ",}":
            return Progress.ENDED
        return Progress.REJECTED if char in '"{[]:' else Progress.MORE


class _At(enum.Enum):
    OBJECT = enum.auto()
    FIRST_KEY = enum.auto()
    KEY = enum.auto()
    INSIDE_KEY = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    INSIDE_VALUE = enum.auto()
    COMMA = enum.auto()


class CallScanner:
    """Finds the name and the arguments of a call in the order in which the model writes them.

    Arguments that are an object are returned while they arrive, as the model spells them. Arguments that are a JSON
    string (some models write that) are decoded when they are complete; null means none. If a key occurs twice, its
    first value counts.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.has_arguments = False
        """Whether the value of the arguments has begun."""
        self._at = _At.OBJECT
        self._key = ""
        self._value: _String | _Container | _Word = _String()
        self._text: list[str] | None = []
        """The text of the current key or value; None if it is not needed."""
        self._arguments: list[str] = []

    def take_arguments(self) -> str:
        """Return the text of the arguments since the last call of this method."""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def feed(self, char: str) -> Progress:
        if self._at is _At.INSIDE_VALUE or self._at is _At.INSIDE_KEY:
            return self._inside(char)
        if char in _SPACE:
            return Progress.MORE
        match self._at:
            case _At.OBJECT if char == "{":
                self._at = _At.FIRST_KEY
            case _At.FIRST_KEY | _At.KEY if char == '"':
                self._at, self._value, self._text = _At.INSIDE_KEY, _String(), []
                return self._inside(char)
            case _At.COLON if char == ":":
                self._at = _At.VALUE
            case _At.VALUE if char not in ",:}]":
                return self._begin_value(char)
            case _At.COMMA if char == ",":
                self._at = _At.KEY
            case _At.COMMA | _At.FIRST_KEY if char == "}":
                return Progress.DONE
            case _:
                return Progress.REJECTED
        return Progress.MORE

    def _begin_value(self, char: str) -> Progress:
        self._at, self._text = _At.INSIDE_VALUE, None
        self._value = _String() if char == '"' else _Container() if char in "{[" else _Word()
        if self._key == "name" and self.name is None:
            if char != '"':
                return Progress.REJECTED
            self._text = []
        elif self._key in ARGUMENT_KEYS and not self.has_arguments:
            self.has_arguments = True
            self._text = self._arguments if char == "{" else []
        return self._inside(char)

    def _inside(self, char: str) -> Progress:
        progress = self._value.feed(char)
        if progress is Progress.REJECTED:
            return progress
        if progress is Progress.ENDED:
            self._end_value()
            return self.feed(char)
        if self._text is not None:
            self._text.append(char)
        if progress is Progress.DONE and not (self._end_key() if self._at is _At.INSIDE_KEY else self._end_value()):
            return Progress.REJECTED
        return Progress.MORE

    def _end_key(self) -> bool:
        key = _decode_string("".join(self._text or ()))
        self._key, self._at = key or "", _At.COLON
        return key is not None

    def _end_value(self) -> bool:
        self._at = _At.COMMA
        if self._text is None or self._text is self._arguments:
            return True
        text = "".join(self._text)
        decoded = _decode_string(text) if text.startswith('"') else text
        if decoded is None:
            return False
        if self._key == "name":
            self.name = decoded
        elif decoded != "null":
            self._arguments.append(decoded)
        return True


def _decode_string(text: str) -> str | None:
    """Return the value of a JSON string; None if its escapes are not valid."""
    try:
        value = _DECODER.decode(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
