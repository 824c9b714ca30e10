"""Merges a user's PodTemplateSpec into a rendered one, like a strategic merge: lists merge by their key, if any."""

from __future__ import annotations

from typing import Any

from gllm_operator.objects import without_nulls

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
"""Lists without a key to which the patch appends. The patch replaces all other lists."""


def overlay(base: Any, patch: Any, field: str = "") -> Any:
    """Return the merged value. Null in the patch removes a field. The arguments are not changed."""
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
        index = next((at for at, old in enumerate(merged) if _same(old, item, key)), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            if index is not None:
                del merged[index]
        elif index is None:
            merged.append(without_nulls(item))
        elif key == "name" and "value" in item and "valueFrom" in merged[index]:
            merged[index] = item  # An environment variable has either value or valueFrom.
        else:
            merged[index] = overlay(merged[index], item)
    return merged


def _same(old: Any, item: Any, key: str) -> bool:
    return isinstance(old, dict) and isinstance(item, dict) and key in item and old.get(key) == item[key]
