"""Reading a request's body: bounded, JSON, and checked against its schema."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from gllm.gateway.errors import ApiError, bad_request, body_too_large, from_validation
from gllm.gateway.schema_base import Schema
from gllm.gateway.sse import ClientGoneError

S = TypeVar("S", bound=Schema)


async def read_body(request: Request, schema: type[S], limit: int) -> S:
    """The checked body. Raises ApiError: 400 (naming the field), 413, 415; ClientGoneError if the client leaves."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, "The request body must be JSON, with 'Content-Type: application/json'.",
                       code="unsupported_media_type")  # fmt: skip
    raw = await _read(request, limit)
    if not raw:
        raise bad_request(None, "The request body is empty; send a JSON object.", "invalid_json")
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


async def _read(request: Request, limit: int) -> bytes:
    """Counts what arrives: a Content-Length may lie or be missing."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise body_too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise body_too_large(limit)
            parts.append(part)
    except ClientDisconnect:
        raise ClientGoneError from None
    return b"".join(parts)
