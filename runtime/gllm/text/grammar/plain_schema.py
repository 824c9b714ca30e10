"""Rewrites keywords of a JSON schema that llguidance does not take, where others mean the same."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

NAMED_SUBSCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keywords that map names to schemas."""
_VALUES = frozenset({"const", "enum", "default", "example", "examples"})
"""Keywords that hold JSON values, not schemas."""
_POINTER_CHARACTERS = "#/%~!$&'()*+,;=:@?-._"

_LARGEST_INTEGER = 2**63 - 1
_LARGEST_NUMBER = 10**18
"""llguidance takes no bounds beyond these. A bound nearer to zero is stricter, so the generated values still fit."""

_LOOK_AROUND = re.compile(r"(?<!\\)\(\?(?:[=!]|<[=!])")
_EQUAL_PATTERNS = {
    # pydantic's Decimal
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$",
    # zod's email
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
}
"""Patterns with look-around that libraries write into schemas, and equal ones without it."""


def plain_schema(schema: Any, *, named: bool = False) -> Any:
    """Return the schema without keywords that are null, with bounds, references and patterns that llguidance takes.

    named: `schema` maps names to schemas. Every subschema keeps its path.
    """
    if isinstance(schema, list):
        return [plain_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if named:
        return {name: plain_schema(value) for name, value in schema.items()}
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES:
            if value is not None or key == "const":
                result[key] = value
        elif value is not None:
            result[key] = plain_schema(value, named=key in NAMED_SUBSCHEMAS)
    if isinstance(result.get("$ref"), str):
        result["$ref"] = quote(result["$ref"], safe=_POINTER_CHARACTERS)
    _limit_bounds(result)
    _split_pattern(result)
    for key in ("anyOf", "oneOf"):
        if isinstance(result.get(key), list):
            result[key] = _without_look_around(result[key])
    return result


def _limit_bounds(schema: dict[str, Any]) -> None:
    largest = _LARGEST_INTEGER if schema.get("type") == "integer" else _LARGEST_NUMBER
    for keyword in ("maximum", "exclusiveMaximum"):
        if _is_number(schema.get(keyword)) and schema[keyword] > largest:
            schema[keyword] = largest
    for keyword in ("minimum", "exclusiveMinimum"):
        if _is_number(schema.get(keyword)) and schema[keyword] < -_LARGEST_NUMBER:
            schema[keyword] = -_LARGEST_NUMBER


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _split_pattern(schema: dict[str, Any]) -> None:
    """Make each look-ahead at the beginning a pattern of its own, as in ^(?=.*[0-9])(?=.*[a-z]).{8,}$."""
    pattern = schema.get("pattern")
    if not isinstance(pattern, str) or not _LOOK_AROUND.search(pattern):
        return
    schema["pattern"] = _EQUAL_PATTERNS.get(pattern, pattern)
    ahead = []
    rest = pattern.removeprefix("^")
    while rest != pattern and rest.startswith("(?=") and (end := _closing(rest)) is not None:
        ahead.append(f"^(?:{rest[3:end]})")
        rest = rest[end + 1 :]
    if ahead and "|" not in re.sub(r"\\.|\([^()]*\)|\[[^]]*\]", "", rest):
        parts = schema.get("allOf", [])
        schema["allOf"] = [*(parts if isinstance(parts, list) else []), *({"pattern": text} for text in ahead)]
        schema["pattern"] = "^" + rest


def _closing(pattern: str) -> int | None:
    """Return the index at which the first group of the pattern ends; None if it does not end."""
    depth, in_class, index = 0, False, 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            index += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return index
        index += 1
    return None


def _without_look_around(members: list[Any]) -> list[Any]:
    """Drop alternatives with look-around if others are left: a Decimal is a number or such a string."""
    kept = [False if isinstance(member, dict) and _looks_around(member) else member for member in members]
    return kept if any(member is not False for member in kept) else members


def _looks_around(schema: dict[str, Any]) -> bool:
    pattern = schema.get("pattern")
    return isinstance(pattern, str) and _LOOK_AROUND.search(pattern) is not None
