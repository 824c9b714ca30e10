"""Grammar strings from JSON schemas, regular expressions, Lark grammars and lists of choices.

Nothing here compiles: what a client sent must pass `GrammarChecker` before an engine sees it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError

MAX_SCHEMA_DEPTH = 64
MAX_CHOICES = 1024

JSON_OPTIONS = {
    # Without a bound, a small model may print line breaks until it runs out of tokens.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}",
    # Taken as anyOf. Exact where the branches exclude one another, as in tagged unions.
    "coerce_one_of": True,
    "lenient": False,
}
"""llguidance's options for JSON; they go into the schema's "x-guidance", over what a client put there."""

_NAMED_SUBSCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_SUBSCHEMAS = frozenset({"items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "if", "then", "else"})


def grammar_from_json_schema(schema: Any, *, strict: bool = False, param: str = "response_format") -> str:
    """JSON that is valid under `schema` (an object, or true for any value).

    strict: objects that list their properties allow no others unless the schema says so, as OpenAI's strict mode
    demands. Keywords llguidance does not implement are refused by the check, not ignored. Raises
    ParameterError(param) for what is no schema, or too large.
    """
    return json.dumps({"grammars": [{"json_schema": checked_schema(schema, strict=strict, param=param)}]})


def checked_schema(schema: Any, *, strict: bool, param: str) -> dict[str, Any]:
    """The schema with our options in it, after a look at its size, depth and references."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ParameterError(param, f"{param}: the JSON schema must be an object")
    _check_depth_and_references(schema, param)
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ParameterError(param, f"{param}: the schema is not plain JSON: {error}") from None
    if size > MAX_GRAMMAR_BYTES:
        raise ParameterError(param, f"{param}: the schema has {size} bytes; at most {MAX_GRAMMAR_BYTES} are allowed")
    return {**(_closed(schema) if strict else schema), "x-guidance": JSON_OPTIONS}


def any_json_object() -> str:
    """Any JSON object (OpenAI's response_format {"type": "json_object"})."""
    return grammar_from_json_schema({"type": "object"})


def grammar_from_regex(regex: str, *, param: str = "regex") -> str:
    """Text that the regular expression (Rust syntax: Unicode classes, no look-around) matches as a whole."""
    _check_text(regex, param)
    return str(LLMatcher.grammar_from_regex(regex))


def grammar_from_lark(text: str, *, param: str = "grammar") -> str:
    """Text of a Lark grammar with a `start` rule, in llguidance's dialect."""
    _check_text(text, param)
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def grammar_from_choices(choices: Sequence[str], *, param: str = "choice") -> str:
    """Exactly one of the strings."""
    if not 0 < len(choices) <= MAX_CHOICES:
        raise ParameterError(param, f"{param} must list 1 to {MAX_CHOICES} strings")
    for choice in choices:
        _check_text(choice, param)
    return grammar_from_lark("start: " + " | ".join(lark_string(choice) for choice in choices), param=param)


def lark_string(text: str) -> str:
    """A Lark literal: the same escapes as JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _check_text(text: Any, param: str) -> None:
    if not isinstance(text, str) or not text:
        raise ParameterError(param, f"{param} must be a string that is not empty")
    if len(text) > MAX_GRAMMAR_BYTES:
        raise ParameterError(param, f"{param} has {len(text)} characters; at most {MAX_GRAMMAR_BYTES} are allowed")


def _check_depth_and_references(schema: dict[str, Any], param: str) -> None:
    """Iterative, so that depth itself cannot hurt."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                reference = node.get("$ref")
                if isinstance(reference, str) and not reference.startswith("#"):
                    raise ParameterError(param, f"{param}: $ref may only point into the schema itself (#/...)")
                below += node.values()
            else:
                below += node
        level = [node for node in below if isinstance(node, (dict, list))]
        if not level:
            return
    raise ParameterError(param, f"{param}: the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever it lists properties and says nothing about others.

    Parts of an allOf stay open: each sees the properties of the others.
    """
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key, value in schema.items():
        if key in _NAMED_SUBSCHEMAS and isinstance(value, dict):
            closed[key] = {name: _closed(subschema) for name, subschema in value.items()}
        elif key in _SUBSCHEMAS:
            closed[key] = _closed(value)
    if isinstance(schema.get("properties"), dict) and "allOf" not in schema:
        closed.setdefault("additionalProperties", False)
    return closed
