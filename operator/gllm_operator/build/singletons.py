"""The objects that a deployment has one of: Services, PodDisruptionBudget, ServiceAccount, NetworkPolicy, Secret."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from typing import Any

from gllm_operator.api.gateway import Gateway
from gllm_operator.api.server import Server
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.build.gateway import gateway_objects
from gllm_operator.build.integrations import OPTIONAL_APIS, autoscaler, pod_monitors
from gllm_operator.build.model_source import model_files
from gllm_operator.build.overlay import overlay
from gllm_operator.build.route import route_objects
from gllm_operator.build.secret_files import KEYS_KEY
from gllm_operator.build.tracing import tracing_egress
from gllm_operator.names import (
    DEPLOYMENT,
    SERVING,
    Owner,
    gateways_selector,
    headless_name,
    keys_name,
    masters_selector,
    metadata,
    shared_gateways_selector,
)
from gllm_operator.spec.revision import PodSource
from gllm_operator.spec.shared_model import SharedModel


def singletons(
    owner: Owner,
    spec: LLMDeploymentSpec,
    apis: Collection[str],
    source: PodSource | None = None,
    *,
    shared: Sequence[SharedModel] = (),
    labelled: bool = True,
    gateways_ready: bool = False,
    evictions: int = 0,
) -> list[dict[str, Any]]:
    """Those for which the cluster has the API. source: of the spec, which the gateways share with the groups.

    shared: further models of the gateways. gateways_ready: whether the Service may lead to them.
    evictions: pods that may be unavailable at once.
    """
    children = _children(owner, spec, labelled, gateways_ready, evictions)
    if spec.gateway is not None and source is not None:
        children += gateway_objects(owner, spec.gateway, source, shared, policy=spec.security.network_policy)
    return [one for one in children if _has_api(one, apis)]


def missing_apis(owner: Owner, spec: LLMDeploymentSpec, apis: Collection[str]) -> tuple[str, ...]:
    """A sentence for each object that the spec asks for and whose API the cluster lacks."""
    return tuple(
        f"the cluster has no {one['apiVersion']}, so there is no {one['kind']} {one['metadata']['name']}: install "
        "its CRDs (the operator looks every minute)"
        for one in _children(owner, spec)
        if not _has_api(one, apis)
    )


def _has_api(manifest: dict[str, Any], apis: Collection[str]) -> bool:
    return manifest["apiVersion"] not in OPTIONAL_APIS or manifest["apiVersion"] in apis


def _children(
    owner: Owner, spec: LLMDeploymentSpec, labelled: bool = True, gateways_ready: bool = False, evictions: int = 0
) -> list[dict[str, Any]]:
    gateways = None if spec.gateway is None else gateways_of(owner.name, spec.gateway)
    children = [
        headless_service(owner),
        client_service(owner, spec.server, labelled, gateways if gateways_ready else None),
        disruption_budget(owner, evictions),
    ]
    if spec.security.service_account_name is None:
        children.append(service_account(owner))
    if spec.security.network_policy:
        downloads = bool(model_files(spec.model).download)
        engines = None if spec.gateway is None or gateways is None else (gateways, spec.gateway.engine_port)
        more = tracing_egress(spec.monitoring.tracing)
        children.append(network_policy(owner, spec.server.port, downloads, engines, more))
    if spec.autoscaling is not None:
        children.append(autoscaler(owner, spec.autoscaling))
    if spec.route is not None:
        children += route_objects(owner, spec.route, spec.server)
    if spec.monitoring.pod_monitor:
        key = spec.server.api_key_secret_ref
        own = spec.gateway is not None and spec.gateway.parent is None
        children += pod_monitors(owner, spec.monitoring, key, gateways=own)
    return children


def gateways_of(deployment: str, gateway: Gateway) -> dict[str, str]:
    """The labels of the gateway pods that serve a deployment: its own ones, or some of its parent's."""
    return gateways_selector(deployment) if gateway.parent is None else shared_gateways_selector(deployment)


def client_service(
    owner: Owner, server: Server, labelled: bool, gateways: dict[str, str] | None = None
) -> dict[str, Any]:
    """The Service for clients. It selects the masters, or the gateways, of which Kubernetes includes the ready ones.

    labelled: whether all masters have the label by which a recovering one leaves the Service.
    gateways: the labels of the gateways; None: the masters.
    """
    port = {"name": "http", "port": server.service_port, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    selector = masters_selector(owner.name) | ({SERVING: "true"} if labelled else {})
    if gateways is not None:
        selector = gateways
    own = {"type": server.service_type, "selector": selector, "ports": [port]}
    given = server.service_template
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": overlay(given.get("metadata") or {}, metadata(owner, owner.name)),
        "spec": overlay(given.get("spec") or {}, own),
    }
    return service


def headless_service(owner: Owner) -> dict[str, Any]:
    """The Service that gives pods their DNS names, even before they are ready: they need them to become ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, headless_name(owner.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {DEPLOYMENT: owner.name},
        },
    }


def disruption_budget(owner: Owner, evictions: int) -> dict[str, Any]:
    """Evictions may take as many pods at once as they may take groups, since each pod could be of another group. They
    may take none while the operator moves groups off nodes that are about to go (plan/moves.py)."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, owner.name),
        "spec": {
            # Not minAvailable: in a rollout there are more pods, and it would let more of them go.
            "maxUnavailable": evictions,
            "selector": {"matchLabels": {DEPLOYMENT: owner.name}},
            # A pod that is not ready must not block the drain of a node: its group is unavailable already.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def service_account(owner: Owner) -> dict[str, Any]:
    """A ServiceAccount without rights, so that pods do not use the namespace's default one."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner, owner.name),
        "automountServiceAccountToken": False,
    }


def keys_secret(owner: Owner, text: str) -> dict[str, Any]:
    """The Secret is created and never applied, because the keys of a running group must not change.

    It is not `immutable`: a kubelet would never read it again while any pod mounts one of this name, and give the keys
    of a deleted deployment to pods of its successor.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(owner, keys_name(owner.name)),
        "type": "Opaque",
        "stringData": {KEYS_KEY: text},
    }


def network_policy(
    owner: Owner,
    port: int,
    downloads: bool,
    engines: tuple[dict[str, str], int] | None = None,
    more_egress: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Ingress: the HTTP port from anywhere, all ports from the deployment's own pods, because NCCL uses any port, and
    the engine's port from the gateways. engines: labels of the gateways, engine's port.
    Egress: the own pods, DNS, HTTPS if the model is downloaded, and `more_egress`."""
    own = {"podSelector": {"matchLabels": {DEPLOYMENT: owner.name}}}
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    egress: list[dict[str, Any]] = [{"to": [own]}, {"ports": dns}, *more_egress]
    if downloads:
        egress.append({"ports": [{"protocol": "TCP", "port": 443}]})
    ingress: list[dict[str, Any]] = [{"from": [own]}, {"ports": [{"protocol": "TCP", "port": port}]}]
    if engines is not None:
        gateways, engine_port = engines
        ingress.append(
            {
                "from": [{"podSelector": {"matchLabels": gateways}}],
                "ports": [{"protocol": "TCP", "port": engine_port}],
            }
        )
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, owner.name),
        "spec": {
            "podSelector": {"matchLabels": {DEPLOYMENT: owner.name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def make_keys() -> str:
    """New CURVE keys in the text form of `gllm keys` (gllm.wire.curve). Any 32 bytes are a Curve25519 secret key."""
    return f"{secrets.token_hex(32)}.{secrets.token_hex(32)}"
