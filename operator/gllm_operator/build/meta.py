"""metadata of a child that is one of its kind."""

from __future__ import annotations

from typing import Any

from gllm_operator.names import Owner, base_labels


def metadata(owner: Owner, name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": base_labels(owner.name) | (labels or {}),
        "ownerReferences": [owner.reference],
    }
