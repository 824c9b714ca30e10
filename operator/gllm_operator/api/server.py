"""spec.server, spec.network, spec.probes: how clients reach the pods, how pods reach each other, and deadlines."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from gllm_operator.api.types import ApiObject, KeyRef, Port, RawObject, Rule, Seconds, ShortText, Variable


class Server(ApiObject, frozen=True, kw_only=True):
    port: Port = 8000
    """The port of the master's container."""
    service_port: Port = 80
    """The port of the Service, which has the name of the LLMDeployment."""
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """The type of the Service."""
    service_template: RawObject = field(default_factory=dict)
    """A Service whose metadata (labels, annotations) and spec (loadBalancerClass, loadBalancerSourceRanges,
    externalTrafficPolicy and so on) are merged into the Service. The operator sets its type, ports and selector."""
    api_key_secret_ref: KeyRef | None = None
    """The key of a Secret with the API key that requests must carry. Without it, requests need no key."""


class Rdma(ApiObject, frozen=True, kw_only=True):
    resource_name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-z0-9.-]+/[\w.-]+$")] | None = None
    """The extended resource of RDMA devices; each pod requests one. Without it, every node is assumed to have them."""
    hca: ShortText | None = None
    """NCCL_IB_HCA: the adapters to use."""
    gid_index: Annotated[int, Meta(ge=0, le=255)] | None = None
    """NCCL_IB_GID_INDEX, for RoCE."""
    traffic_class: Annotated[int, Meta(ge=0, le=255)] | None = None
    """NCCL_IB_TC: the InfiniBand traffic class."""


class Network(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.extraEnv) || self.extraEnv.all(v, v.name.startsWith('NCCL_') || v.name.startsWith('GLOO_') "
            "|| v.name.startsWith('UCX_') || v.name.startsWith('TORCH_'))",
            "network.extraEnv takes NCCL_*, GLOO_*, UCX_* and TORCH_* variables: put others into spec.template",
        ),
    )

    interface: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """The network interface for traffic among ranks (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME). Defaults to the one with
    the pod's address."""
    master_port: Annotated[int, Meta(ge=1024, le=65533)] = 29500
    """The first of three consecutive ports on the master: the supervisors' link, the engine's scheduler outputs, and
    the rendezvous of ranks."""
    rdma: Rdma | None = None
    """InfiniBand or RoCE among the pods. Without it, NCCL uses sockets."""
    debug: Literal["WARN", "INFO", "TRACE"] | None = None
    """NCCL_DEBUG: how much NCCL logs."""
    extra_env: Annotated[tuple[Variable, ...], Meta(max_length=64)] = ()
    """Further environment variables for NCCL, Gloo, UCX and torch."""


class Probes(ApiObject, frozen=True, kw_only=True):
    startup_deadline_seconds: Annotated[int, Meta(ge=10, le=86400)] = 1800
    """Seconds from the start of a pod within which its group must serve for the first time."""
    stall_seconds: Annotated[int, Meta(ge=30, le=86400)] = 600
    """Seconds without progress after which the master's container of a group that has served is restarted."""
    period_seconds: Annotated[int, Meta(ge=1, le=300)] = 5
    """Seconds between two readiness probes."""
    heartbeat_timeout_seconds: Annotated[int, Meta(ge=1, le=600)] = 5
    """Seconds without a heartbeat after which the master gives up a slave, and a slave its master."""
    step_timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 300
    """Seconds without the result of a step after which the engine and its workers are restarted."""
    recovery_timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 180
    """Seconds within which lost workers and pods must be back. Requests wait for so long, and then fail."""
    join_timeout_seconds: Seconds = 1800
    """Seconds within which the pods of a group must find each other."""
