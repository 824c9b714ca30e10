"""Base classes of all bodies: strict models, bounded values, unions with clear errors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, model_validator

from gllm.gateway.protocol.fields import without_no_ops

MAX_INT = 2**31 - 1
MAX_JSON_DEPTH = 128
MAX_JSON_NODES = 10_000

Label = Annotated[str, StringConstraints(max_length=256)]
CallId = Annotated[str, StringConstraints(max_length=65_536)]
"""The id of a tool call. It is long, because some services put encrypted reasoning into it."""
TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]


def by_type(expected: str, tags: dict[type, str]) -> Discriminator:
    """Choose the member of a union by the type of the value. pydantic would try all members, and report any error.

    Tags contain a bracket: by it `validation` tells the names of union members from parts of a field's path.
    """
    return Discriminator(
        lambda value: next((tag for kind, tag in tags.items() if isinstance(value, kind)), None),
        custom_error_type="wrong_type",
        custom_error_message=f"Input should be {expected}",
    )


def check_json(value: Any, what: str) -> Any:
    """Check the bounds of a free-form JSON value: depth, number of nodes and size of integers. Raises ValueError."""
    nodes = 0
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        following: list[Any] = []
        for node in level:
            nodes += 1
            if nodes > MAX_JSON_NODES:
                raise ValueError(f"{what} has more than {MAX_JSON_NODES} values")
            if isinstance(node, dict):
                following.extend(node.values())
            elif isinstance(node, list):
                following.extend(node)
            elif isinstance(node, int) and abs(node) > 2**63:
                raise ValueError(f"{what} has an integer beyond 64 bits")
        if not following:
            return value
        level = following
    raise ValueError(f"{what} is nested deeper than {MAX_JSON_DEPTH} levels")


class Schema(BaseModel):
    """Strict: no coercion, no unknown fields, no NaN. Errors do not repeat the input."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        """null means not given. Free-form values (schemas, template arguments) are not changed."""
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class Tolerant(Schema):
    """Ignores unknown keys, because clients send back the answers of other servers."""

    model_config = ConfigDict(extra="ignore")


class Body(Schema):
    """A whole request."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: _whole_numbers(value) for name, value in without_no_ops(data, cls.model_fields).items()}


def _whole_numbers(value: Any) -> Any:
    """Convert 16.0 to 16, for clients whose language has one kind of number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list) and value and isinstance(value[0], float | list):
        return [_whole_numbers(item) for item in value]
    return value
