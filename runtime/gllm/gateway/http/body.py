"""Reading a request's body: bounded, JSON, and checked against its schema."""

from __future__ import annotations

import asyncio
import codecs
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from gllm.gateway.http.answering import ClientGoneError
from gllm.gateway.protocol.errors import ApiError, bad_request, body_too_large
from gllm.gateway.protocol.json_bounds import check_bounds, invalid_json
from gllm.gateway.protocol.schema import Schema
from gllm.gateway.protocol.validation import from_validation

S = TypeVar("S", bound=Schema)

MAX_ERRORS = 1000
"""Above this count, the list of errors is not built: only one of them is shown, and the list is expensive."""
BODY_TIMEOUT = 120.0
"""Seconds a body may take to arrive: an unfinished body occupies memory."""

LONG_BODY = 1024 * 1024
"""Bodies of this many bytes are checked in a thread: it takes tens of milliseconds, in several calls into C."""
_LONG_BODIES = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-body")
"""One thread, because each call into C holds the interpreter lock: the event loop would wait for several of them."""


async def read_body(request: Request, schema: type[S], limit: int) -> S:
    """Return the checked body. Raises ApiError 400 (names the field), 408, 413 or 415, or ClientGoneError."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(
            415,
            f"Content-Encoding '{encoding[:50]}' is not supported: send the body as it is.",
            code="unsupported_encoding",
        )
    # A browser asks for permission (a preflight) only if the type is JSON, so a page must declare it; otherwise any
    # page could post.
    default = "" if "origin" in request.headers else "application/json"
    kind = request.headers.get("content-type", default).partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415, "The request body must be JSON, with 'Content-Type: application/json'.", code="unsupported_media_type"
        )
    raw = (await _read(request, limit)).removeprefix(codecs.BOM_UTF8)
    if not raw:
        raise bad_request(None, "The request body is empty; send a JSON object.", "invalid_json")
    if len(raw) < LONG_BODY:
        return _parse(raw, schema)
    return await asyncio.get_running_loop().run_in_executor(_LONG_BODIES, _parse, raw, schema)


def _parse(raw: bytes, schema: type[S]) -> S:
    check_bounds(raw)
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            raise bad_request(None, f"The request body has {error.error_count()} errors.", "invalid_value") from None
        errors = error.errors(include_url=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise invalid_json(raw, errors[0]["msg"]) from None
        raise from_validation(errors) from None


async def _read(request: Request, limit: int) -> bytes:
    """Return the body. Raises ApiError 408 or 413, or ClientGoneError.

    The received bytes are counted, because a Content-Length may be wrong or missing.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise body_too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise body_too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            408, f"The request body took more than {BODY_TIMEOUT:g} seconds to arrive.", code="request_timeout"
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None
    return b"".join(parts)
