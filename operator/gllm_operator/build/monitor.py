"""PodMonitor for Prometheus' operator."""

from __future__ import annotations

from typing import Any

from gllm_operator.api.base import KeyRef
from gllm_operator.api.extras import Monitoring
from gllm_operator.build.meta import metadata
from gllm_operator.names import REVISION, Owner, masters_selector

MONITORING_API = "monitoring.coreos.com/v1"


def pod_monitor(owner: Owner, monitoring: Monitoring, api_key: KeyRef | None) -> dict[str, Any]:
    endpoint: dict[str, Any] = {
        "port": "http",
        "path": "/metrics",
        "interval": f"{monitoring.interval_seconds}s",
    }
    if api_key is not None:
        endpoint["authorization"] = {"credentials": {"name": api_key.name, "key": api_key.key}}
    return {
        "apiVersion": MONITORING_API,
        "kind": "PodMonitor",
        "metadata": metadata(owner, owner.name, monitoring.labels),
        "spec": {
            "selector": {"matchLabels": masters_selector(owner.name)},
            "podTargetLabels": [REVISION],
            "podMetricsEndpoints": [endpoint],
        },
    }
