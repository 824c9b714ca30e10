"""One tool call, {"name": ..., "arguments": ...}, read character by character in constant work each."""

from __future__ import annotations

import enum
import json

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_SPACE = frozenset(" \t\r\n")
# Models put raw line breaks into strings.
_DECODER = json.JSONDecoder(strict=False)


class Progress(enum.Enum):
    MORE = enum.auto()
    """Taken; the value or object goes on."""
    DONE = enum.auto()
    """Taken; it was the last character."""
    ENDED = enum.auto()
    """Not taken; the value ended before it."""
    REJECTED = enum.auto()
    """Not taken; it cannot stand there."""


class _String:
    """A JSON string: where it ends."""

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
    """A JSON object or array: brackets balance outside strings; what is between them is not judged."""

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
    """A number, true, false or null: it ends where something else begins."""

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

    Arguments that are an object are handed out as they come, in the model's own spelling. Arguments given as a
    JSON string (models do that) are decoded when complete; null counts as none. The first of several wins.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.has_arguments = False
        """The value of the arguments has begun."""
        self._at = _At.OBJECT
        self._key = ""
        self._value: _String | _Container | _Word = _String()
        self._text: list[str] | None = []
        """Where the key or value being read is collected; None: nobody needs it."""
        self._arguments: list[str] = []

    def take_arguments(self) -> str:
        """The arguments' text since the last call."""
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
    """A JSON string's value, None if its escapes are not valid."""
    try:
        value = _DECODER.decode(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
