"""The Service that clients use, and the one that gives the pods their names."""

from __future__ import annotations

from typing import Any

from gllm_operator.api.server import Server
from gllm_operator.build.meta import metadata
from gllm_operator.names import DEPLOYMENT, Owner, headless_name, masters_selector


def client_service(owner: Owner, server: Server) -> dict[str, Any]:
    """Only masters that are ready get requests."""
    port = {"name": "http", "port": server.service_port, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, owner.name),
        "spec": {"type": server.service_type, "selector": masters_selector(owner.name), "ports": [port]},
    }


def headless_service(owner: Owner) -> dict[str, Any]:
    """Names of pods that are not ready count: they become ready by finding each other."""
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
