"""Every error a client can see, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from gllm.gateway.request.fields import REFUSED
from gllm.sampling_params import ParameterError

INTERNAL_MESSAGE = "The server had an error while processing your request."


class ApiError(Exception):
    """An answer other than success: HTTP status, OpenAI's error object and optionally `Retry-After` (seconds)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.allow = allow

    def body(self) -> bytes:
        """The JSON object, as sent in a response body or in an SSE frame."""
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}
        )

    def response(self) -> Response:
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(self.body(), self.status, headers=headers, media_type="application/json")


def bad_request(param: str | None, message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unauthorized() -> ApiError:
    return ApiError(
        401, "Incorrect or missing API key; send it as 'Authorization: Bearer KEY'.",
        kind="authentication_error", code="invalid_api_key",
    )  # fmt: skip


def body_too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {limit} bytes.", code="request_too_large")


def overloaded(reason: str, retry_after: int) -> ApiError:
    return ApiError(429, reason, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after)


def unavailable(reason: str, code: str = "service_unavailable", retry_after: int = 1) -> ApiError:
    return ApiError(503, reason, kind="server_error", code=code, retry_after=retry_after)


def engine_dead(reason: str) -> ApiError:
    """The engine went away under a request; it may be sent again once a new engine is up."""
    return unavailable(f"The engine stopped while it worked on this request: {reason}", code="engine_dead")


def internal_error() -> ApiError:
    """Fixed text: nothing of the exception leaves the process."""
    return ApiError(500, INTERNAL_MESSAGE, kind="server_error", code="internal_error")


def context_too_long(message: str, param: str) -> ApiError:
    return bad_request(param, message, "context_length_exceeded")


def from_parameter_error(error: ParameterError) -> ApiError:
    return bad_request(error.param, str(error), "invalid_value")


def from_http_status(status: int, path: str, method: str, headers: Mapping[str, str] | None) -> ApiError:
    """For answers the router makes itself: unknown path, wrong method."""
    if status == 404:
        return ApiError(404, f"Unknown path: {method} {path[:200]}", code="unknown_url")
    if status == 405:
        allow = (headers or {}).get("Allow", "")
        return ApiError(405, f"{method} is not allowed on {path[:200]}; use {allow}.", code="method_not_allowed",
                        allow=allow)  # fmt: skip
    if status >= 500:
        return internal_error()
    return ApiError(status, "The request could not be read.", code="invalid_request")


def from_validation(errors: Iterable[Mapping[str, Any]]) -> ApiError:
    """One field, named, of pydantic's list of errors.

    An unknown field wins over a wrong value; of a union's members, the one that got furthest into the value wins.
    """
    listed = list(errors)
    first = next((error for error in listed if error["type"] == "extra_forbidden"), None)
    if first is None:
        same_field = [error for error in listed if error["loc"][:1] == listed[0]["loc"][:1]]
        first = max(same_field, key=lambda error: len(error["loc"]))
    kind = first["type"]
    if kind in ("json_invalid", "json_type"):
        return bad_request(None, f"The request body is not valid JSON: {first['msg'][:200]}", "invalid_json")
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
        why = REFUSED.get(param, "")
        message = f"The parameter '{param}' is not supported" + (f": {why}." if why else ".")
        return bad_request(param, message, "unsupported_parameter")
    if kind == "missing":
        return bad_request(param, f"The parameter '{param}' is missing.", "missing_required_parameter")
    if not path:
        return bad_request(None, f"The request body: {first['msg']}", "invalid_value")
    text = first["msg"].removeprefix("Value error, ")
    return bad_request(param, f"Invalid value for '{param}': {text}.", "invalid_value")


def _is_union_branch(part: str) -> bool:
    """pydantic puts the name of the tried union member into `loc`: `list[str]`, `constrained-str`, `ToolChoice`."""
    return "[" in part or "-" in part or "(" in part or part in _BRANCHES or part[:1].isupper()


_BRANCHES = frozenset({"str", "int", "float", "bool", "none"})


def _render_path(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text[:200]
