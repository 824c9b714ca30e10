"""spec.gateway: a Deployment of gateways, and how they find the engines and may reach them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gllm_operator.api.gateway import Gateway
from gllm_operator.build.env import DRAIN_DELAY_VARIABLE, pod_names
from gllm_operator.build.model_source import model_files, served_name
from gllm_operator.build.overlay import overlay
from gllm_operator.build.pod import base_container, pod_spec
from gllm_operator.build.probes import DRAIN_DELAY_SECONDS, READY, http_probe
from gllm_operator.build.secret_files import SecretFile, secret_files
from gllm_operator.build.shared_models import (
    also_args,
    engines_place,
    queue_args,
    shared_downloads,
    shared_labels,
    shared_mounts,
    shared_volumes,
    wait_args,
)
from gllm_operator.build.tracing import tracing_args, tracing_egress, tracing_env
from gllm_operator.names import (
    DEPLOYMENT,
    MANAGED_BY,
    MANAGER,
    Owner,
    engines_name,
    gateway_name,
    gateways_selector,
    masters_selector,
    metadata,
)
from gllm_operator.spec.parallel_config import parallel_config
from gllm_operator.spec.revision import PodSource
from gllm_operator.spec.shared_model import SharedModel

CONTAINER = "gateway"
_DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]


def gateway_objects(
    owner: Owner, gateway: Gateway, source: PodSource, shared: Sequence[SharedModel], *, policy: bool
) -> list[dict[str, Any]]:
    """shared: the further models. policy: whether to restrict the network traffic of the gateways."""
    if gateway.parent is not None:
        return [engines_service(owner)]
    objects = [engines_service(owner), gateway_deployment(owner, gateway, source, shared), _budget(owner)]
    return [*objects, _network_policy(owner, source, shared)] if policy else objects


def engines_service(owner: Owner) -> dict[str, Any]:
    """A headless Service of the masters. Also of those that are not ready: a gateway itself knows which engines serve,
    and a draining one still has requests."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, engines_name(owner.name)),
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": masters_selector(owner.name)},
    }


def gateway_deployment(
    owner: Owner, gateway: Gateway, source: PodSource, shared: Sequence[SharedModel]
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "gllm", "app.kubernetes.io/component": CONTAINER}
    labels |= {"app.kubernetes.io/instance": owner.name, MANAGED_BY: MANAGER} | gateways_selector(owner.name)
    labels |= shared_labels(shared)
    spec = _pod_spec(owner, gateway, source, shared)
    template = overlay({"metadata": {"labels": labels}, "spec": spec}, gateway.template)
    template["metadata"]["labels"] |= labels
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, gateway_name(owner.name)),
        "spec": {
            "replicas": gateway.replicas,
            "selector": {"matchLabels": gateways_selector(owner.name)},
            # A new gateway is ready when a group serves that it can use; until then the old ones stay.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 1,
            "template": template,
        },
    }


def _pod_spec(owner: Owner, gateway: Gateway, source: PodSource, shared: Sequence[SharedModel]) -> dict[str, Any]:
    files = model_files(source.model)
    own = {
        "containers": [_container(owner, gateway, source, shared)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *files.volumes,
            *(one.volume for one in _secrets(owner, source)),
            *shared_volumes(shared),
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": gateways_selector(owner.name)},
            }
        ],
    }
    spec = pod_spec(source, own)
    downloads = shared_downloads(source, shared)
    return spec | {"initContainers": [*spec.get("initContainers", ()), *downloads]} if downloads else spec


def _container(owner: Owner, gateway: Gateway, source: PodSource, shared: Sequence[SharedModel]) -> dict[str, Any]:
    files = model_files(source.model)
    env: list[dict[str, Any]] = [
        {"name": "HOME", "value": "/tmp"},
        {"name": DRAIN_DELAY_VARIABLE, "value": str(DRAIN_DELAY_SECONDS)},
        *(one.env for one in _secrets(owner, source)),
        *((*pod_names(), *tracing_env(owner, source.tracing)) if source.tracing is not None else ()),
    ]
    period = source.probes.period_seconds
    return base_container(CONTAINER, source) | {
        "args": [
            *("gateway", files.path),
            *("--engines", engines_place(owner.name, owner.namespace, source)),
            *("--host", "0.0.0.0", "--port", str(source.port), "--served-model-name", served_name(source.model)),
            *queue_args(source),
            *("--engine-timeout", str(gateway.wait_seconds), "--drain-timeout", str(source.drain_timeout)),
            *wait_args(gateway),
            *("--log-level", source.engine.log_level),
            *tracing_args(source.tracing),
            *gateway.extra_args,
            *also_args(owner.namespace, shared),
        ],
        "env": env,
        "ports": [{"name": "http", "containerPort": source.port, "protocol": "TCP"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            *files.mounts,
            *(one.mount for one in _secrets(owner, source)),
            *shared_mounts(shared),
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "readinessProbe": http_probe(READY) | {"periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 1},
        "livenessProbe": http_probe("/health")
        | {"initialDelaySeconds": 30, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def _secrets(owner: Owner, source: PodSource) -> tuple[SecretFile, ...]:
    return secret_files(owner, source, parallel_config(source.parallelism, source.accelerator), CONTAINER)


def _budget(owner: Owner) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, gateway_name(owner.name)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": gateways_selector(owner.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _network_policy(owner: Owner, source: PodSource, shared: Sequence[SharedModel]) -> dict[str, Any]:
    """Ingress: the HTTP port from anywhere. Egress: the engines, DNS, HTTPS if a model is downloaded, and the
    collector of traces."""
    ports = {owner.name: source.engine_port} | {one.deployment: one.source.engine_port for one in shared}
    egress: list[dict[str, Any]] = [
        {
            "to": [{"podSelector": {"matchLabels": {DEPLOYMENT: deployment}}}],
            "ports": [{"protocol": "TCP", "port": port}],
        }
        for deployment, port in ports.items()
    ]
    egress.append({"ports": _DNS})
    if any(model_files(model).download for model in (source.model, *(one.source.model for one in shared))):
        egress.append({"ports": [{"protocol": "TCP", "port": 443}]})
    egress += tracing_egress(source.tracing)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, gateway_name(owner.name)),
        "spec": {
            "podSelector": {"matchLabels": gateways_selector(owner.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": source.port}]}],
            "egress": egress,
        },
    }
