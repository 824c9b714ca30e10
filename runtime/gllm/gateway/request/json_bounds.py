"""A cheap look at a JSON body before anything is built from it.

A body of 16 MB can hold eight million values, or a million unknown fields; checking each against the schema would keep
the event loop busy for a minute. Text is cheap, so what is bounded here is structure: values outside of strings.
"""

from __future__ import annotations

import msgspec

from gllm.gateway.errors import ApiError, bad_request

MAX_FIELDS = 256
"""Top-level fields, known or not."""
MAX_FIELD_VALUES = 100_000
MAX_TOKEN_VALUES = 1_100_000
"""For the fields that may be lists of token ids."""
TOKEN_FIELDS = frozenset({"prompt", "tokens"})

MAX_QUOTES = 800_000
"""Two for each string, be it a key or a value."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_bounds(raw: bytes) -> None:
    """Raises ApiError 400 for what is not a JSON object, or has more structure than any request needs."""
    if _exceeds(raw, MAX_TOKEN_VALUES + MAX_FIELD_VALUES):
        raise _too_much(None, "The request body")
    try:
        fields = _fields.decode(raw)
    except msgspec.ValidationError as error:
        raise bad_request(None, f"The request body must be a JSON object: {error}", "invalid_value") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request(None, f"The request body is not valid JSON: {str(error)[:200]}", "invalid_json") from None
    if len(fields) > MAX_FIELDS:
        raise _too_much(None, "The request body")
    for name, value in fields.items():
        limit = MAX_TOKEN_VALUES if name in TOKEN_FIELDS else MAX_FIELD_VALUES
        if _exceeds(bytes(value), limit):
            raise _too_much(name[:200], f"'{name[:200]}'")


def _exceeds(raw: bytes, limit: int) -> bool:
    """Whether there are more than `limit` values outside of strings, give or take the innermost ones."""
    if _count(raw) <= limit:
        return False
    # Most commas of a long text are inside its strings: only now is it worth taking them out.
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if unescaped.count(b'"') > MAX_QUOTES:
        return True
    # Every second piece is a string's inside. In pieces, so that other threads get the interpreter lock in between.
    return sum(map(_count, unescaped.split(b'"')[::2])) > limit


def _count(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _too_much(param: str | None, what: str) -> ApiError:
    return bad_request(param, f"{what} has too many values.", "invalid_value")
