"""ServiceAccount, Secret of the keys, NetworkPolicy."""

from __future__ import annotations

from typing import Any

from gllm_operator.build.env import KEYS_KEY
from gllm_operator.build.meta import metadata
from gllm_operator.names import DEPLOYMENT, Owner, keys_name


def service_account(owner: Owner) -> dict[str, Any]:
    """Pods need none of its rights: it is there so that they do not run as the namespace's default one."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner, owner.name),
        "automountServiceAccountToken": False,
    }


def keys_secret(owner: Owner, text: str) -> dict[str, Any]:
    """Is created, never applied: the keys of a running group must not change."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(owner, keys_name(owner.name)),
        "type": "Opaque",
        "immutable": True,
        "stringData": {KEYS_KEY: text},
    }


def network_policy(owner: Owner, port: int, downloads: bool) -> dict[str, Any]:
    """In: requests from anywhere to the master's port, everything from the deployment's own pods (NCCL takes any
    port). Out: the own pods, DNS, and HTTPS where the model is downloaded."""
    own = {"podSelector": {"matchLabels": {DEPLOYMENT: owner.name}}}
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    egress: list[dict[str, Any]] = [{"to": [own]}, {"ports": dns}]
    if downloads:
        egress.append({"ports": [{"protocol": "TCP", "port": 443}]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, owner.name),
        "spec": {
            "podSelector": {"matchLabels": {DEPLOYMENT: owner.name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own]}, {"ports": [{"protocol": "TCP", "port": port}]}],
            "egress": egress,
        },
    }
