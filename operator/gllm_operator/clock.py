"""Times as Kubernetes writes them, and as arithmetic needs them."""

from __future__ import annotations

import datetime


def stamp(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str | None) -> float | None:
    if not text:
        return None
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
