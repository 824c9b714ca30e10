"""Lays a user's PodTemplateSpec over a rendered one, as a strategic merge would: lists with a key merge by it."""

from __future__ import annotations

from typing import Any

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
_APPENDED = frozenset({"tolerations", "envFrom", "schedulingGates"})
"""Lists without a key of which both halves are meant. All others are replaced."""


def overlay(base: Any, patch: Any, field: str = "") -> Any:
    """A new value; null in the patch removes. Neither argument is changed."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = dict(base)
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = overlay(merged[key], value, key) if key in merged else without_nulls(value)
        return merged
    if isinstance(base, list) and isinstance(patch, list):
        if field in _KEYS:
            return _by_key(base, patch, _KEYS[field])
        if field in _APPENDED:
            return base + [item for item in without_nulls(patch) if item not in base]
    return without_nulls(patch)


def _by_key(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    merged = list(base)
    for item in patch:
        place = next((at for at, old in enumerate(merged) if _same(old, item, key)), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append(without_nulls(item))
        elif key == "name" and "value" in item and "valueFrom" in merged[place]:
            merged[place] = item  # An environment variable has one or the other.
        else:
            merged[place] = overlay(merged[place], item)
    return merged


def _same(old: Any, item: Any, key: str) -> bool:
    return isinstance(old, dict) and isinstance(item, dict) and key in item and old.get(key) == item[key]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value
