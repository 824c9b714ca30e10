"""Prepares the JSON schema of a client for llguidance: bounds it, closes its objects, drops annotations.

Keywords that llguidance cannot enforce stay in the schema, and the compiler refuses them by name. `uniqueItems` and
string formats without a known syntax are annotations here.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError
from gllm.text.grammar.plain_schema import NAMED_SUBSCHEMAS, plain_schema

MAX_SCHEMA_DEPTH = 100
"""The JSON reader of llguidance stops at 128 levels, of which the envelope takes a few."""

ENFORCED_FORMATS = frozenset(
    {"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
"""String formats that llguidance has a grammar for. All others are annotations, as JSON Schema allows."""

_SUBSCHEMAS = frozenset(
    {"items", "prefixItems", "additionalItems", "additionalProperties", "unevaluatedProperties", "contains", "not"}
    | {"if", "then", "else"}
)
_BRANCHES = ("allOf", "anyOf", "oneOf")
_STATES_OTHERS = ("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames")
"""Keywords with which a schema itself states which other properties an object may have."""
_OPEN_DEFINITION = "gllm:open-"


def checked_schema(schema: Any, *, param: str) -> dict[str, Any]:
    """Return the schema for llguidance. `schema` is an object, or true for any value.

    An object that lists properties has no others, unless the schema states it (`additionalProperties` and the like). An
    object composed of parts (allOf, or properties beside anyOf or $ref) has the properties of all parts. Raises
    ParameterError(param) for a value that is not a schema, is too large or too deep, or refers to another document.
    """
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
    return _Rewriter(plain_schema(schema)).rewritten()


def _check_depth_and_references(schema: dict[str, Any], param: str) -> None:
    """Raise ParameterError if the schema is too deep or refers to another document.

    The search is iterative, so that a deep schema does not exhaust the stack.
    """
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


class _Rewriter:
    """Rewrites one schema. Pointers into it stay valid, because every subschema keeps its path."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._open: dict[str, str] = {}
        """Pointer to the name of a definition, which is the pointer's target with open objects."""
        self._left: list[str] = []
        """Pointers in `_open` that have no definition yet."""

    def rewritten(self) -> dict[str, Any]:
        schema = self._schema(self._root, closed=True)
        if not isinstance(schema, dict):
            schema = {"enum": []}  # false: no value is valid
        definitions: dict[str, Any] = {}
        while self._left:
            reference = self._left.pop()
            definitions[self._open[reference]] = self._schema(self._target(reference), closed=False)
        if definitions:
            schema["$defs"] = {**schema.get("$defs", {}), **definitions}
        return schema

    def _schema(self, schema: Any, *, closed: bool) -> Any:
        """Return the rewritten schema. closed: an object that lists its properties has no others.

        Parts of a composition stay open.
        """
        if isinstance(schema, list):  # `items` of older drafts
            return [self._schema(item, closed=closed) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if schema.get("not") in ({}, True):
            return False
        composed = self._is_composed(schema)
        parts_closed = closed and not composed
        result: dict[str, Any] = {}
        for key, value in schema.items():
            if key in NAMED_SUBSCHEMAS and isinstance(value, dict):
                result[key] = {name: self._schema(subschema, closed=True) for name, subschema in value.items()}
            elif key in _SUBSCHEMAS:
                result[key] = self._schema(value, closed=True)
            elif key in _BRANCHES and isinstance(value, list):
                result[key] = [self._schema(part, closed=parts_closed) for part in value]
            elif key == "$ref" and not parts_closed:
                result[key] = self._open_reference(value)
            elif not _is_annotation(key, value):
                result[key] = value
        self._bound_names(result)
        if schema.get("unevaluatedProperties") is False and {*_BRANCHES, "$ref"} & set(schema):
            del result["unevaluatedProperties"]  # it applies to all parts, which are closed already
            schema = {key: value for key, value in schema.items() if key != "unevaluatedProperties"}
        elif "unevaluatedProperties" in result and not composed and "additionalProperties" not in result:
            result["additionalProperties"] = result.pop("unevaluatedProperties")
        if closed:
            self._close(schema, result, composed)
        return result

    def _is_composed(self, schema: dict[str, Any]) -> bool:
        """Whether the properties of an object come from several schemas."""
        members = schema.get("allOf")
        alone = (
            isinstance(members, list)
            and len(members) == 1
            and not {"properties", "$ref", "anyOf", "oneOf"} & set(schema)
        )
        if isinstance(members, list) and not alone:
            return True
        return "properties" in schema and any(key in schema for key in ("$ref", "anyOf", "oneOf"))

    def _close(self, schema: dict[str, Any], result: dict[str, Any], composed: bool) -> None:
        if not composed and not isinstance(schema.get("properties"), dict):
            return
        names = self._property_names(schema)
        if names and composed:
            own = result.get("properties", {})
            result["properties"] = {name: own.get(name, True) for name in names}
            result["additionalProperties"] = False
        elif names is not None and not composed:
            required = schema.get("required")
            for name in required if isinstance(required, list) else ():
                if isinstance(name, str):
                    result["properties"].setdefault(name, True)
            result["additionalProperties"] = False

    def _property_names(self, schema: dict[str, Any]) -> dict[str, None] | None:
        """Return the properties that a schema and its parts list, in order.

        None if a part states which others are allowed.
        """
        names: dict[str, None] = {}
        seen: set[str] = set()
        parts: list[Any] = [schema]
        while parts:  # iterative, because a chain of references may be long
            part = parts.pop()
            if not isinstance(part, dict):
                continue
            if any(key in part for key in _STATES_OTHERS):
                return None
            if isinstance(part.get("properties"), dict):
                names.update(dict.fromkeys(part["properties"]))
            for key in reversed(_BRANCHES):
                if isinstance(part.get(key), list):
                    parts += reversed(part[key])
            reference = part.get("$ref")
            if isinstance(reference, str) and reference not in seen:
                seen.add(reference)
                parts.append(self._target(reference))
        return names

    def _open_reference(self, reference: Any) -> Any:
        """Return a reference to the same target with open objects."""
        target = self._target(reference) if isinstance(reference, str) else None
        if target is None:
            return reference
        if reference not in self._open:
            self._open[reference] = f"{_OPEN_DEFINITION}{len(self._open)}"
            self._left.append(reference)
        return f"#/$defs/{self._open[reference]}"

    def _target(self, reference: str) -> Any:
        """Return the target of a pointer into the schema (#/...); None if there is none."""
        node: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = node.get(step)
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            else:
                return None
        return node if reference == "#" or reference.startswith("#/") else None

    def _bound_names(self, schema: dict[str, Any]) -> None:
        """Replace `propertyNames` by keywords that llguidance has; if there are none, it stays and is refused."""
        names = schema.get("propertyNames")
        if isinstance(names, dict) and isinstance(names.get("$ref"), str):
            names = self._target(names["$ref"])
        if names is True or (isinstance(names, dict) and not _restrictions(names)):
            del schema["propertyNames"]
            return
        if not isinstance(names, dict) or "properties" in schema or "patternProperties" in schema:
            return
        value = schema.get("additionalProperties", True)
        listed = names.get("enum", [names["const"]] if "const" in names else None)
        restrictions = _restrictions(names)
        if restrictions <= {"enum", "const"} and isinstance(listed, list):
            schema["properties"] = {name: value for name in listed if isinstance(name, str)}
        elif restrictions == {"pattern"}:
            schema["patternProperties"] = {names["pattern"]: value}
        elif restrictions <= {"minLength", "maxLength"}:
            most = names.get("maxLength", "")
            schema["patternProperties"] = {f"^[\\s\\S]{{{names.get('minLength', 0)},{most}}}$": value}
        else:
            return
        del schema["propertyNames"]
        schema["additionalProperties"] = False


def moved(schema: Any, path: str) -> Any:
    """Return the schema for use at `path` of another one: its pointers into itself (#/...) begin with `path`."""
    if isinstance(schema, list):
        return [moved(item, path) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: value if key in ("const", "enum") else moved(value, path) for key, value in schema.items()}
    reference = result.get("$ref")
    if isinstance(reference, str):
        result["$ref"] = path + reference.removeprefix("#")
    return result


def _is_annotation(key: str, value: Any) -> bool:
    if key == "format":
        return isinstance(value, str) and value not in ENFORCED_FORMATS
    return key == "uniqueItems" and isinstance(value, bool)


def _restrictions(names: dict[str, Any]) -> set[str]:
    """Return the keywords that restrict a string, in a schema of names."""
    return set(names) - {"type", "title", "description", "default", "examples", "$comment"}
