"""A short fingerprint of a manifest."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


def digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]
