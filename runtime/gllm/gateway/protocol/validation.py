"""Turns pydantic's list of errors into one ApiError that names the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gllm.gateway.protocol.errors import ApiError, bad_request, from_parameter_error
from gllm.gateway.protocol.fields import REFUSED
from gllm.sampling_params import ParameterError


def from_validation(errors: Iterable[Mapping[str, Any]]) -> ApiError:
    """Choose the error to report.

    An unknown field comes before a wrong value. Of the errors of a union's members, the deepest is taken.
    """
    listed = list(errors)
    first = next((error for error in listed if error["type"] == "extra_forbidden"), None)
    if first is None:
        same_field = [error for error in listed if error["loc"][:1] == listed[0]["loc"][:1]]
        first = max(same_field, key=lambda error: len(error["loc"]))
    kind = first["type"]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        return from_parameter_error(cause)
    loc = first["loc"]
    keep_last = kind in ("extra_forbidden", "missing")
    path = [
        part
        for position, part in enumerate(loc)
        if isinstance(part, int)
        or position == 0
        or (keep_last and position == len(loc) - 1)
        or not _is_union_branch(part)
    ]
    param = _render_path(path)
    if kind == "extra_forbidden":
        why = f": {REFUSED[param].instead}" if param in REFUSED else ""
        message = f"The parameter '{param}' is not supported{why}."
        return bad_request(param, message, "unsupported_parameter")
    if kind == "missing":
        return bad_request(param, f"The parameter '{param}' is missing.", "missing_required_parameter")
    if not path:
        return bad_request(None, f"The request body: {first['msg']}", "invalid_value")
    text = first["msg"].removeprefix("Value error, ")
    return bad_request(param, f"Invalid value for '{param}': {text}.", "invalid_value")


def _is_union_branch(part: str) -> bool:
    """Whether a part of `loc` is the name of a union member, such as `list[str]`, `constrained-str`, `ToolChoice`."""
    return "[" in part or "-" in part or "(" in part or part in _BRANCHES or part[:1].isupper()


_BRANCHES = frozenset({"str", "int", "float", "bool", "none"})


def _render_path(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text[:200]
