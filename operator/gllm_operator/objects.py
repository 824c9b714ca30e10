"""Kubernetes objects as plain data: names, versions, digests, timestamps and quantities."""

from __future__ import annotations

import datetime
import hashlib
import re
from typing import Any, NamedTuple

import msgspec

Object = dict[str, Any]
"""An object as the API server returns it."""
Manifest = dict[str, Any]
"""An object as the operator writes it: only the fields that the operator owns."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class ObjectRef(NamedTuple):
    """Names an object within a namespace."""

    api_version: str
    kind: str
    name: str


class ObjectKey(NamedTuple):
    """Names an object of a known kind, such as an LLMDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def ref_of(found: Object) -> ObjectRef:
    return ObjectRef(found["apiVersion"], found["kind"], found["metadata"]["name"])


def key_of(found: Object) -> ObjectKey:
    return ObjectKey(found["metadata"]["namespace"], found["metadata"]["name"])


def resource_version(found: Object) -> int:
    """The resource version of an object; 0 if there is none."""
    return version_number(str(found["metadata"].get("resourceVersion", "0")))


def version_number(text: str) -> int:
    """A resource version as a number. Those of one kind grow; Kubernetes guarantees it since 1.35."""
    return int(text) if text.isdigit() else 0


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of a hash of a manifest."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def without_nulls(value: Any) -> Any:
    """A copy without the keys whose value is None, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(inner) for inner in value]
    return value


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, in whole seconds."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str | None) -> float | None:
    """The inverse of `timestamp`; None for an absent timestamp."""
    if not text:
        return None
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def parse_quantity(text: str) -> int:
    """Return the bytes of a text such as 80Gi, 1.5G or 1024. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(i?)B?", text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount of memory: write for example 80Gi")
    unit = _UNITS[match[2]] if not match[3] else 1024 ** "_KMGT".index(match[2] or "_")
    return int(float(match[1]) * unit)
