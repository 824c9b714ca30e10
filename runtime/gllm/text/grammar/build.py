"""Grammar strings from JSON schemas, regular expressions, Lark grammars and lists of choices.

Nothing here is compiled: a grammar of a client must pass `GrammarChecker` before it goes to an engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError
from gllm.text.grammar.ebnf import EbnfError, is_ebnf, lark_from_ebnf
from gllm.text.grammar.json_schema import checked_schema

MAX_CHOICES = 1024

JSON_OPTIONS = {
    # Without a bound, a small model may write line breaks up to max_tokens.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,8}",
    # oneOf is read as anyOf. This is exact if the branches exclude one another, as in tagged unions.
    "coerce_one_of": True,
    "lenient": False,
}
"""llguidance's options for JSON; they replace "x-guidance" in the schema of a client."""
COMPACT_OPTIONS = {"whitespace_flexible": False, "coerce_one_of": True, "lenient": False}
"""The same without white space between values."""


def grammar_from_json_schema(schema: Any, *, compact: bool = False, param: str = "response_format") -> str:
    """Return a grammar for JSON that is valid under `schema` (an object, or true for any value), see `checked_schema`.

    compact: no white space between values. The check refuses keywords that llguidance does not implement. Raises
    ParameterError(param) for a value that is not a schema, or is too large.
    """
    options = COMPACT_OPTIONS if compact else JSON_OPTIONS
    checked = {**checked_schema(schema, param=param), "x-guidance": options}
    return json.dumps({"grammars": [{"json_schema": checked}]})


def any_json_object(*, compact: bool = False) -> str:
    """Return a grammar for any JSON object (OpenAI's response_format {"type": "json_object"})."""
    return grammar_from_json_schema({"type": "object"}, compact=compact)


def grammar_from_regex(regex: str, *, param: str = "regex") -> str:
    """Return a grammar for text that a regular expression matches as a whole (Rust syntax, without look-around)."""
    _check_text(regex, param)
    return str(LLMatcher.grammar_from_regex(regex))


def grammar_from_text(text: str, *, param: str = "grammar") -> str:
    """Return the grammar for a text in EBNF (`root ::= ...`) or in llguidance's dialect of Lark (`start: ...`)."""
    _check_text(text, param)
    if not is_ebnf(text):
        return grammar_from_lark(text, param=param)
    try:
        return grammar_from_lark(lark_from_ebnf(text), param=param)
    except EbnfError as error:
        raise ParameterError(param, f"{param}: {error}") from None


def grammar_from_lark(text: str, *, param: str = "grammar") -> str:
    """Return the grammar for a Lark text with a `start` rule, in llguidance's dialect."""
    _check_text(text, param)
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def grammar_from_choices(choices: Sequence[str], *, param: str = "choice") -> str:
    """Return a grammar for exactly one of the strings."""
    if not 0 < len(choices) <= MAX_CHOICES:
        raise ParameterError(param, f"{param} must list 1 to {MAX_CHOICES} strings")
    for choice in choices:
        _check_text(choice, param)
    return grammar_from_lark("start: " + " | ".join(lark_string(choice) for choice in choices), param=param)


def lark_string(text: str) -> str:
    """Return a Lark literal; it has the same escapes as JSON."""
    return json.dumps(text, ensure_ascii=False)


def _check_text(text: Any, param: str) -> None:
    if not isinstance(text, str) or not text:
        raise ParameterError(param, f"{param} must be a string that is not empty")
    if len(text) > MAX_GRAMMAR_BYTES:
        raise ParameterError(param, f"{param} has {len(text)} characters; at most {MAX_GRAMMAR_BYTES} are allowed")
