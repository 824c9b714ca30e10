"""Cheap checks of a JSON body before it is decoded.

A body of 16 MB can hold eight million values, or a million unknown fields. To check each of them against the schema
would block the event loop for a minute. Text is cheap, so the bounds are on values outside of strings.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gllm.gateway.protocol.errors import ApiError, bad_request

MAX_FIELDS = 256
"""Limit of top-level fields, known or not."""
MAX_FIELD_VALUES = 100_000
MAX_TOKEN_VALUES = 1_100_000
"""Limit for fields that may be lists of token ids."""
TOKEN_FIELDS = frozenset({"prompt", "tokens", "allowed_token_ids", "input_ids", "query", "items"})

MAX_QUOTES = 800_000
"""Limit of quotes: two for each key and each string value."""

_HALF_PAIR = re.compile(
    rb"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\)(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
r"""An escape like \ud83d without its other half. The pattern is applied to invalid JSON only."""


def check_bounds(raw: bytes) -> None:
    """Check that the body is a JSON object, has no more values than a request needs, and gives no field twice.

    The check for repeated fields covers the body and the objects that are its values, such as `logit_bias`. Raises
    ApiError 400.
    """
    if _exceeds(raw, MAX_TOKEN_VALUES + MAX_FIELD_VALUES):
        raise _too_much(None, "The request body")
    fields = _split(raw)
    if len(fields) > MAX_FIELDS:
        raise _too_much(None, "The request body")
    for name, value in fields.items():
        limit = MAX_TOKEN_VALUES if name in TOKEN_FIELDS else MAX_FIELD_VALUES
        part = bytes(value)
        if _exceeds(part, limit):
            raise _too_much(name[:200], f"'{name[:200]}'")
        if part.startswith(b"{"):
            _split(part, f"{name}.")


class _Name(str):
    """A field's name. msgspec calls `dec_hook` for each name, also for a repeated one."""


def _split(raw: bytes, path: str = "") -> dict[_Name, msgspec.Raw]:
    """Return the fields of an object, not decoded. path: prefix of the names in errors."""
    names: set[str] = set()

    def name(_: type, value: Any) -> _Name:
        if value in names:
            field = (path + value)[:200]
            raise bad_request(field, f"The field '{field}' is given twice.", "invalid_value")
        names.add(value)
        return _Name(value)

    try:
        return msgspec.json.decode(raw, type=dict[_Name, msgspec.Raw], dec_hook=name)
    except msgspec.ValidationError as error:
        raise bad_request(None, f"The request body must be a JSON object: {error}", "invalid_value") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise invalid_json(raw, str(error)) from None


def invalid_json(raw: bytes, reason: str) -> ApiError:
    if _HALF_PAIR.search(raw):
        reason = "a text has half of a surrogate pair; send both halves, or the character itself"
    return bad_request(None, f"The request body is not valid JSON: {reason[:200]}", "invalid_json")


def _exceeds(raw: bytes, limit: int) -> bool:
    """Whether there are more than about `limit` values outside of strings."""
    if _count(raw) <= limit:
        return False
    # Most commas of a long text are inside its strings. To remove these is expensive, so it is done only here.
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if unescaped.count(b'"') > MAX_QUOTES:
        return True
    # Every second piece is the inside of a string. Between the pieces other threads can get the interpreter lock.
    return sum(map(_count, unescaped.split(b'"')[::2])) > limit


def _count(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _too_much(param: str | None, what: str) -> ApiError:
    return bad_request(param, f"{what} has too many values.", "invalid_value")
