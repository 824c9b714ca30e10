"""Errors as HTTP responses."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from gllm.gateway.http.paths import canonical, speaks_anthropic, speaks_sglang
from gllm.gateway.protocol.errors import ApiError, internal_error

REQUEST_ID = "gllm.request_id"
"""Key of the request's id in the scope's state."""


def error_response(error: ApiError, scope: Scope) -> Response:
    """Return the response, in the format of the API that the path belongs to."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.allow is not None:
        headers["Allow"] = error.allow
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error.body()
    path = canonical(scope["path"])
    if speaks_sglang(path):
        body = msgspec.json.encode(error.sglang_object())
    elif speaks_anthropic(path):
        body = msgspec.json.encode(error.anthropic_object(scope["state"].get(REQUEST_ID)))
    return Response(body, error.status, headers=headers, media_type="application/json")


def not_offered(lack: str) -> ApiError:
    """Return the error for a route of another server's API. lack: the text from `why_not_offered`."""
    return ApiError(404, f"This server generates text: {lack}.", code="unknown_url")


def from_http_status(status: int, path: str, method: str, headers: Mapping[str, str] | None) -> ApiError:
    """Return the error for a response of the router itself: unknown path, wrong method."""
    if status == 404:
        return ApiError(404, f"Unknown path: {method} {path[:200]}", code="unknown_url")
    if status == 405:
        allow = (headers or {}).get("Allow", "").replace("GET", "GET, HEAD")
        return ApiError(
            405, f"{method} is not allowed on {path[:200]}; use {allow}.", code="method_not_allowed", allow=allow
        )
    if status >= 500:
        return internal_error()
    return ApiError(status, "The request could not be read.", code="invalid_request")
