"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message", "details"}, "request_id"}`."""

from __future__ import annotations

from typing import Any

from gllm.gateway.protocol.errors import ApiError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}

_NAMES = (("response_format", "output_config.format"), (".function.parameters", ".input_schema"), (".function", ""))
"""A chat's fields, which its errors name, and Anthropic's."""


def speaks_anthropic(path: str) -> bool:
    """Whether this canonical path is one of Anthropic's."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def error_object(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "invalid_request_error")
    message = error.message
    if error.param is not None:
        message = message.replace(error.param, _own_name(error.param))
    shown: dict[str, Any] = {"type": kind, "message": message}
    if error.code is not None:
        shown["details"] = {"error_code": error.code}
    return {"type": "error", "error": shown, "request_id": request_id}


def _own_name(param: str) -> str:
    for chat_name, name in _NAMES:
        param = param.replace(chat_name, name)
    return param
