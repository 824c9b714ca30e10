"""spec.server, spec.network, spec.probes: how the pods are reached, by clients and by each other."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from gllm_operator.api.types import ApiObject, KeyRef, Port, Rule, Seconds, ShortText, Variable


class Server(ApiObject, frozen=True, kw_only=True):
    port: Port = 8000
    """Port of the container."""
    service_port: Port = 80
    """Port of the Service that bears the deployment's name."""
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of that Service."""
    api_key_secret_ref: KeyRef | None = None
    """Key of a Secret with the key that requests must bear; without it whoever reaches the Service may use it."""


class Rdma(ApiObject, frozen=True, kw_only=True):
    resource_name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-z0-9.-]+/[\w.-]+$")] | None = None
    """The extended resource of the RDMA devices, one is asked for a pod; without it they are on every node."""
    hca: ShortText | None = None
    """NCCL_IB_HCA: which adapters."""
    gid_index: Annotated[int, Meta(ge=0, le=255)] | None = None
    """NCCL_IB_GID_INDEX, for RoCE."""
    traffic_class: Annotated[int, Meta(ge=0, le=255)] | None = None
    """NCCL_IB_TC."""


class Network(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.extraEnv) || self.extraEnv.all(v, v.name.startsWith('NCCL_') || v.name.startsWith('GLOO_') "
            "|| v.name.startsWith('UCX_') || v.name.startsWith('TORCH_'))",
            "network.extraEnv takes NCCL_*, GLOO_*, UCX_* and TORCH_* variables: put others into spec.template",
        ),
    )

    interface: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """Network interface for traffic between ranks (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME); without it the one that
    owns the pod's address."""
    master_port: Annotated[int, Meta(ge=1024, le=65533)] = 29500
    """First of three ports on the master: the supervisors' link, the engine's plans, the rendezvous of ranks."""
    rdma: Rdma | None = None
    """InfiniBand or RoCE between the pods; without it NCCL uses sockets."""
    debug: Literal["WARN", "INFO", "TRACE"] | None = None
    """NCCL_DEBUG."""
    extra_env: Annotated[tuple[Variable, ...], Meta(max_length=64)] = ()
    """More variables for NCCL, GLOO, UCX and torch."""


class Probes(ApiObject, frozen=True, kw_only=True):
    startup_deadline_seconds: Annotated[int, Meta(ge=10, le=86400)] = 1800
    """How long a pod may take from its start until the group first serves."""
    stall_seconds: Annotated[int, Meta(ge=30, le=86400)] = 600
    """How long a group that has served may be without progress before its master's container is started anew."""
    period_seconds: Annotated[int, Meta(ge=1, le=300)] = 5
    """How often readiness is looked at."""
    heartbeat_timeout_seconds: Annotated[int, Meta(ge=1, le=600)] = 5
    """Silence after which the master gives a slave up, and a slave its master."""
    step_timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 300
    """Seconds without a step's result after which the engine and its workers start anew."""
    recovery_timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 180
    """Seconds for lost workers and pods to be back; requests wait so long, then fail."""
    join_timeout_seconds: Seconds = 1800
    """Seconds that the pods of a group get to find each other."""
