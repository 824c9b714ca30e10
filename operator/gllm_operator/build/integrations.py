"""Autoscalers and PodMonitors. KEDA's and Prometheus' kinds exist only where these operators are installed."""

from __future__ import annotations

from typing import Any

from gllm_operator.api import GROUP, KIND, VERSION
from gllm_operator.api.extras import Autoscaling, Monitoring
from gllm_operator.api.types import KeyRef
from gllm_operator.build.route import GATEWAY_API, INFERENCE_API
from gllm_operator.names import REVISION, Owner, gateway_name, gateways_selector, masters_selector, metadata

KEDA_API = "keda.sh/v1alpha1"
MONITORING_API = "monitoring.coreos.com/v1"
OPTIONAL_APIS = (KEDA_API, MONITORING_API, GATEWAY_API, INFERENCE_API)
"""The API groups that a cluster may lack."""


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


def pod_monitors(
    owner: Owner, monitoring: Monitoring, api_key: KeyRef | None, *, gateways: bool
) -> list[dict[str, Any]]:
    """Of the masters, and of the gateways if there are any."""
    endpoint: dict[str, Any] = {
        "port": "http",
        "path": "/metrics",
        "interval": f"{monitoring.interval_seconds}s",
    }
    if api_key is not None:
        endpoint["authorization"] = {"credentials": {"name": api_key.name, "key": api_key.key}}

    def monitor(name: str, selector: dict[str, str], labels: list[str]) -> dict[str, Any]:
        return {
            "apiVersion": MONITORING_API,
            "kind": "PodMonitor",
            "metadata": metadata(owner, name, monitoring.labels),
            "spec": {
                "selector": {"matchLabels": selector},
                "podTargetLabels": labels,
                "podMetricsEndpoints": [endpoint],
            },
        }

    found = [monitor(owner.name, masters_selector(owner.name), [REVISION])]
    if gateways:
        found.append(monitor(gateway_name(owner.name), gateways_selector(owner.name), []))
    return found
