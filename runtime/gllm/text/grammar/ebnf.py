"""EBNF grammars (`root ::= ...`, as llama.cpp and xgrammar write them), translated to llguidance's Lark.

A literal becomes a sequence of single characters, so that every lexeme of the Lark grammar is one character. Otherwise
the lexer, which takes the longest match, could divide the text in other places than the grammar does.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

MAX_NESTING = 64
MAX_REPETITIONS = 10_000
_RULE_HEAD = re.compile(r"^[ \t]*\w[\w.-]*[ \t]*::=", re.MULTILINE)
_TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n\r]*)+)
    |(?P<name>\w[\w.-]*)
    |(?P<literal>"(?:[^"\\\n]|\\.)*")
    |(?P<chars>\[(?:[^\]\\\n]|\\.)*\])
    |(?P<count>\{\s*(?P<least>\d*)\s*(?P<range>,?)\s*(?P<most>\d*)\s*\})
    |(?P<sign>::=|[|()*+?.])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "a": "\a"}
_ANY = "/(?s:.)/"


class EbnfError(ValueError):
    """The grammar is wrong; the message names the line."""


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def is_ebnf(text: str) -> bool:
    """Whether a grammar has an EBNF rule; in Lark a colon stands between the name of a rule and its body."""
    return _RULE_HEAD.search(text) is not None


def lark_from_ebnf(text: str) -> str:
    """Translate a grammar to Lark; its start is the rule `root`. Raises EbnfError."""
    return _Translator(_tokens(text)).lark()


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise EbnfError(f"line {line}: cannot read {text[position : position + 20].splitlines()[0]!r}")
        kind = match.lastgroup or ""
        kind = "count" if match["count"] is not None else kind
        if kind != "space":
            tokens.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
        position = match.end()
    tokens.append(_Token("end", "", line))
    return tokens


class _Translator:
    """A recursive-descent parser that writes Lark while it reads. It renames the rules: r0 is the root."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._names: dict[str, str] = {"root": "r0"}
        self._used: dict[str, int] = {"root": 1}
        """Name of a rule to the line of its first use."""

    def lark(self) -> str:
        rules: dict[str, str] = {}
        while self._next.kind != "end":
            name = self._take("name", "the name of a rule")
            if self._next.text != "::=":
                raise self._error("'::=' expected")
            self._at += 1
            if name.text in rules:
                raise EbnfError(f"line {name.line}: the rule '{name.text}' is defined twice")
            rules[name.text] = f"{self._lark_name(name.text)}: {self._alternatives()}"
        for used, line in self._used.items():
            if used not in rules:
                raise EbnfError("there is no rule 'root'" if used == "root" else f"line {line}: no rule '{used}'")
        return "\n".join(["start: r0", *rules.values()]) + "\n"

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, kind: str, what: str) -> _Token:
        token = self._next
        if token.kind != kind:
            raise self._error(f"{what} expected")
        self._at += 1
        return token

    def _error(self, what: str) -> EbnfError:
        found = f"'{self._next.text}'" if self._next.kind != "end" else "the end"
        return EbnfError(f"line {self._next.line}: {what}, found {found}")

    def _lark_name(self, name: str) -> str:
        return self._names.setdefault(name, f"r{len(self._names)}")

    def _alternatives(self) -> str:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"groups nested at most {MAX_NESTING} deep")
        branches = [self._sequence()]
        while self._next.text == "|" and self._next.kind == "sign":
            self._at += 1
            branches.append(self._sequence())
        self._depth -= 1
        return " | ".join(branches)

    def _sequence(self) -> str:
        items = []
        while (item := self._item()) is not None:
            items.append(item + self._repetition())
        return " ".join(items) or '""'

    def _item(self) -> str | None:
        token = self._next
        if token.kind == "name":
            if self._tokens[self._at + 1].text == "::=":  # the next rule begins
                return None
            self._at += 1
            self._used.setdefault(token.text, token.line)
            return self._lark_name(token.text)
        if token.kind == "literal":
            self._at += 1
            text = "".join(self._characters(token))
            return _group([json.dumps(char, ensure_ascii=False) for char in text]) if text else '""'
        if token.kind == "chars":
            self._at += 1
            return self._class(token)
        if token.text == "." and token.kind == "sign":
            self._at += 1
            return _ANY
        if token.text == "(":
            self._at += 1
            inside = self._alternatives()
            if self._next.text != ")":
                raise self._error("')' expected")
            self._at += 1
            return f"({inside})"
        return None

    def _repetition(self) -> str:
        token = self._next
        if token.kind == "sign" and token.text in ("*", "+", "?"):
            self._at += 1
            return token.text
        if token.kind != "count":
            return ""
        self._at += 1
        match = _TOKEN.match(token.text)
        assert match is not None
        if not match["least"] and not match["most"]:
            raise EbnfError(f"line {token.line}: a repetition needs a number, as in {{2}} or {{1,3}}")
        least = int(match["least"] or 0)
        most = least if not match["range"] else int(match["most"]) if match["most"] else None
        if max(least, most or 0) > MAX_REPETITIONS or (most is not None and most < least):
            raise EbnfError(f"line {token.line}: {token.text} must rise, to at most {MAX_REPETITIONS}")
        return f"{{{least},{'' if most is None else most}}}"

    def _characters(self, token: _Token) -> list[str]:
        """Return the characters between the quotes or brackets of a token, without escapes."""
        return [char for char, _ in _unescaped(token.text[1:-1], token.line)]

    def _class(self, token: _Token) -> str:
        characters = _unescaped(token.text[1:-1], token.line)
        negated = bool(characters) and characters[0] == ("^", False)
        if negated:
            characters = characters[1:]
        if not characters:
            if negated:
                return _ANY
            raise EbnfError(f"line {token.line}: a character class must not be empty")
        ranges = []
        index = 0
        while index < len(characters):
            first = last = ord(characters[index][0])
            if characters[index + 1 : index + 2] == [("-", False)] and index + 2 < len(characters):
                last = ord(characters[index + 2][0])
                index += 2
            if last < first:
                raise EbnfError(f"line {token.line}: the range {chr(first)!r} to {chr(last)!r} runs backwards")
            ranges.append((first, last))
            index += 1
        return _lark_class(ranges, negated)


def _unescaped(text: str, line: int) -> list[tuple[str, bool]]:
    """Return the characters of a text, and whether each was written as an escape."""
    found = []
    position = 0
    while position < len(text):
        match = _ESCAPE.match(text, position)
        if match is None:
            if text[position] == "\\":
                raise EbnfError(f"line {line}: an escape is not complete")
            found.append((text[position], False))
            position += 1
            continue
        code = match[1] or match[2] or match[3]
        if code is not None:
            point = int(code, 16)
            if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
                raise EbnfError(f"line {line}: {match[0]} is not a character")
            char = chr(point)
        else:
            char = _PLAIN_ESCAPES.get(match[4], match[4])
            if match[4] in "xuU" or (match[4].isalnum() and match[4] not in _PLAIN_ESCAPES):
                raise EbnfError(f"line {line}: the escape {match[0]} is not known")
        found.append((char, True))
        position = match.end()
    return found


def _group(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"({' '.join(items)})"


def _lark_class(ranges: list[tuple[int, int]], negated: bool) -> str:
    """Return a regular expression for one character."""
    inside = "".join(
        f"\\x{{{first:x}}}" if first == last else f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges
    )
    return f"/[{'^' if negated else ''}{inside}]/"
