"""PodDisruptionBudget, counted in whole groups."""

from __future__ import annotations

from typing import Any

from gllm_operator.api.lifecycle import Disruption
from gllm_operator.build.meta import metadata
from gllm_operator.names import DEPLOYMENT, Owner
from gllm_operator.spec.shape import GroupShape


def disruption_budget(owner: Owner, disruption: Disruption, replicas: int, shape: GroupShape) -> dict[str, Any]:
    kept = max(0, replicas - disruption.max_unavailable_groups)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, owner.name),
        "spec": {
            "minAvailable": kept * shape.pods,
            "selector": {"matchLabels": {DEPLOYMENT: owner.name}},
            # A group that is broken anyway must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
