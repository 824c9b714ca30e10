"""Flags whose value is a JSON object."""

from __future__ import annotations

import json
from typing import Any


def parse_json_object(flag: str, text: str) -> dict[str, Any]:
    """Parse the value of a flag; "" is an empty object. Raises ValueError, which names the flag."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"{flag} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{flag} must be a JSON object, such as '{{\"top_p\": 0.9}}'")
    return value
