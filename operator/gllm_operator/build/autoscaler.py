"""HorizontalPodAutoscaler or KEDA ScaledObject. Both set spec.replicas of the LLMDeployment, and nobody else does."""

from __future__ import annotations

from typing import Any

from gllm_operator.api import GROUP, KIND, VERSION
from gllm_operator.api.extras import Autoscaling
from gllm_operator.build.meta import metadata
from gllm_operator.names import Owner

KEDA_API = "keda.sh/v1alpha1"


def autoscaler(owner: Owner, autoscaling: Autoscaling) -> dict[str, Any]:
    target = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": owner.name}
    if autoscaling.triggers:
        advanced = {}
        if autoscaling.behavior:
            advanced = {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": autoscaling.behavior}}}
        return {
            "apiVersion": KEDA_API,
            "kind": "ScaledObject",
            "metadata": metadata(owner, owner.name),
            "spec": {
                "scaleTargetRef": target,
                "minReplicaCount": autoscaling.min_replicas,
                "maxReplicaCount": autoscaling.max_replicas,
                "triggers": list(autoscaling.triggers),
                **advanced,
            },
        }
    behavior = {"behavior": autoscaling.behavior} if autoscaling.behavior else {}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(owner, owner.name),
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": list(autoscaling.metrics),
            **behavior,
        },
    }
