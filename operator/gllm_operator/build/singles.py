"""All children that a deployment has one of, from its spec and the APIs that the cluster has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.build.autoscaler import KEDA_API, autoscaler
from gllm_operator.build.disruption import disruption_budget
from gllm_operator.build.model import model_files
from gllm_operator.build.monitor import MONITORING_API, pod_monitor
from gllm_operator.build.security import network_policy, service_account
from gllm_operator.build.service import client_service, headless_service
from gllm_operator.names import Owner
from gllm_operator.spec.shape import group_shape

OPTIONAL_APIS = (KEDA_API, MONITORING_API)
"""Which a cluster may lack."""


def single_children(owner: Owner, spec: LLMDeploymentSpec, apis: Collection[str]) -> list[dict[str, Any]]:
    shape = group_shape(spec.parallelism, spec.accelerator)
    children = [
        headless_service(owner),
        client_service(owner, spec.server),
        disruption_budget(owner, spec.disruption, 0 if spec.suspend else spec.replicas, shape),
    ]
    if spec.security.service_account_name is None:
        children.append(service_account(owner))
    if spec.security.network_policy:
        downloads = bool(model_files(spec.model).download)
        children.append(network_policy(owner, spec.server.port, downloads))
    if spec.autoscaling is not None:
        children.append(autoscaler(owner, spec.autoscaling))
    if spec.monitoring.pod_monitor:
        children.append(pod_monitor(owner, spec.monitoring, spec.server.api_key_secret_ref))
    return [child for child in children if child["apiVersion"] not in OPTIONAL_APIS or child["apiVersion"] in apis]
