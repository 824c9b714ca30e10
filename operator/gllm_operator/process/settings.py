"""The operator's settings: flags, or environment variables of the same names."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DRAIN_TAINTS = (
    "ToBeDeletedByClusterAutoscaler,karpenter.sh/disrupted,karpenter.sh/disruption,"
    "cloud.google.com/impending-node-termination"
)
"""Taints by which the cluster autoscaler, Karpenter (1.x and 0.3x) and GKE announce that a node is removed."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Settings:
    namespaces: tuple[str, ...]
    """Namespaces to watch; empty: all."""
    default_image: str
    drain_taints: tuple[str, ...]
    """Keys of taints of nodes that are about to go."""
    http_host: str
    http_port: int
    lease_namespace: str
    lease_name: str
    lease_seconds: float
    identity: str
    resync: float
    concurrency: int
    log_level: str

    @property
    def name(self) -> str:
        """NAMESPACE/NAME of the operator, equal in all its replicas. It marks what it manages with it."""
        return f"{self.lease_namespace}/{self.lease_name or 'gllm-operator'}"


def read_settings(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    parser = argparse.ArgumentParser(
        prog="gllm-operator",
        description="Runs LLMDeployments on Kubernetes. The variable GLLM_OPERATOR_FLAG sets the default of a flag.",
    )

    def flag(name: str, default: str, text: str) -> None:
        variable = "GLLM_OPERATOR_" + name.upper().replace("-", "_")
        value = environment.get(variable, default)
        parser.add_argument(f"--{name}", default=value, help=f"{text} (default: {value or 'none'})", metavar="X")

    flag("namespaces", "", "comma-separated namespaces to watch; empty: all")
    flag("default-image", "", "image of the runtime where spec.image is not set")
    flag("drain-taints", DRAIN_TAINTS, "comma-separated taints of nodes that groups leave, besides cordoned ones")
    flag("http-host", "0.0.0.0", "address for /healthz, /readyz and /metrics")
    flag("http-port", "8080", "port for these; 0: do not serve them")
    flag("lease-namespace", own_namespace(), "namespace of the Lease for leader election")
    flag("lease-name", "gllm-operator", "name of the Lease; empty: no leader election (for tests)")
    flag("lease-seconds", "15", "seconds after which an unrenewed Lease is taken over")
    flag("identity", f"{socket.gethostname()}-{os.getpid()}", "name of this operator in the Lease")
    flag("resync", "300", "seconds after which a deployment is reconciled even if nothing has changed")
    flag("concurrency", "16", "number of deployments that are reconciled at once")
    flag("log-level", "info", "debug, info, warning or error")
    given = parser.parse_args(arguments)
    try:
        return Settings(
            namespaces=_parts(given.namespaces),
            default_image=given.default_image,
            drain_taints=_parts(given.drain_taints),
            http_host=given.http_host,
            http_port=int(given.http_port),
            lease_namespace=given.lease_namespace,
            lease_name=given.lease_name,
            lease_seconds=float(given.lease_seconds),
            identity=given.identity,
            resync=float(given.resync),
            concurrency=int(given.concurrency),
            log_level=given.log_level,
        )
    except ValueError as error:
        parser.error(str(error))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "default"
