"""Converts typed Python classes to structural schemas: types, bounds, defaults, descriptions and CEL rules."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from gllm_operator.api.types import ApiObject, RawObject, Rule

Schema = dict[str, Any]


def object_schema(cls: type[ApiObject]) -> Schema:
    """The schema of an `ApiObject`. Everything in it is bounded, so that CEL rules have a bounded cost."""
    hints = get_type_hints(cls, include_extras=True)
    docs = field_docs(cls)
    properties: dict[str, Schema] = {}
    required = []
    for field in msgspec.structs.fields(cls):
        assert field.name in docs, f"{cls.__name__}.{field.name} has no description"
        schema = type_schema(hints[field.name])
        if field.required:
            required.append(field.encode_name)
        elif _worth_saying(default := _default_of(field)):
            schema["default"] = default
        properties[field.encode_name] = {"description": docs[field.name]} | schema
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    if cls.RULES:
        schema["x-kubernetes-validations"] = rules_schema(cls.RULES)
    return schema


def rules_schema(rules: tuple[Rule, ...]) -> list[Schema]:
    return [
        {"rule": rule.rule, "message": rule.message} | ({"fieldPath": rule.field} if rule.field else {})
        for rule in rules
    ]


def type_schema(kind: Any) -> Schema:
    bounds: Schema = {}
    while get_origin(kind) is Annotated:
        kind, *metas = get_args(kind)
        for meta in metas:
            bounds |= _bounds(meta)
    if get_origin(kind) in (Union, types.UnionType):
        (only,) = (arm for arm in get_args(kind) if arm is not type(None))
        return type_schema(only) | bounds
    return _plain_schema(kind, bounds)


def _plain_schema(kind: Any, bounds: Schema) -> Schema:
    origin = get_origin(kind)
    if kind == RawObject:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if isinstance(kind, type) and issubclass(kind, ApiObject):
        return object_schema(kind)
    if origin is Literal:
        values = list(get_args(kind))
        return {"type": "string" if isinstance(values[0], str) else "integer", "enum": values}
    if origin is tuple:
        item, _ = get_args(kind)
        assert "maxLength" in bounds, f"a list of {item} has no bound"
        return {"type": "array", "items": type_schema(item), "maxItems": bounds["maxLength"]}
    if origin is dict:
        _, value = get_args(kind)
        return {
            "type": "object",
            "additionalProperties": type_schema(value),
            "maxProperties": bounds.get("maxLength", 64),
        }
    if kind is str:
        assert "maxLength" in bounds or "pattern" not in bounds, "a text has no bound"
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    extra = {"format": "int32"} if kind is int and bounds.get("maximum", 2**40) < 2**31 else {}
    extra |= {"format": "int64"} if kind is int and not extra else {}
    return {"type": names[kind]} | extra | bounds


def _bounds(meta: msgspec.Meta) -> Schema:
    found = {
        "minimum": meta.ge if meta.ge is not None else meta.gt,
        "maximum": meta.le if meta.le is not None else meta.lt,
        "minLength": meta.min_length,
        "maxLength": meta.max_length,
        "pattern": meta.pattern,
        "exclusiveMinimum": True if meta.gt is not None else None,
        "exclusiveMaximum": True if meta.lt is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(default, tuple) and default:
        return list(default)
    if not isinstance(default, ApiObject):
        return default
    # In full: the API server checks a default against the object's rules before it fills in nested defaults.
    own = {inner.encode_name: _default_of(inner) for inner in msgspec.structs.fields(type(default))}
    return {name: value for name, value in own.items() if _worth_saying(value)}


def _worth_saying(default: Any) -> bool:
    """Whether a default differs from an absent value for the operator."""
    return default is not None and default not in ((), "", {})


# --- descriptions: the strings below fields in the source ---------------------------------------------------


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the description of each field that the class or one of its bases declares."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if owner.__module__.startswith("gllm_operator."):
            docs |= _own_docs(owner)
    return docs


def _own_docs(cls: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
            assert isinstance(below, ast.Expr)
            assert isinstance(below.value, ast.Constant)
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
