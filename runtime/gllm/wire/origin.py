"""Where a request of the engine comes from: it goes with the request through every process."""

from __future__ import annotations

import msgspec


class Origin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The HTTP request of which a request of the engine is a part. Empty for an offline `LLM`."""

    http_id: str = ""
    """Its X-Request-Id, for log lines (`request_id` there)."""
    traceparent: str = ""
    """The W3C trace context of its span, if it is traced."""


NO_ORIGIN = Origin()
