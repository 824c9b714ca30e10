"""The environment of the serving container: the pod's rank in its group, and how to reach the master."""

from __future__ import annotations

from typing import Any

from gllm_operator.build.probes import DRAIN_DELAY_SECONDS
from gllm_operator.build.secret_files import secret_files
from gllm_operator.build.tracing import tracing_env
from gllm_operator.names import POD_INDEX, GroupId, Owner, headless_name
from gllm_operator.spec.parallel_config import ParallelConfig
from gllm_operator.spec.revision import PodSource

Env = list[dict[str, Any]]

DRAIN_DELAY_VARIABLE = "GLLM_DRAIN_DELAY"
ENGINE_PORT_VARIABLE = "GLLM_ENGINE_PORT"

_RESERVED = frozenset(
    {
        "MASTER_ADDR",
        "MASTER_PORT",
        "NODE_RANK",
        "NNODES",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "POD_NAME",
        "POD_NAMESPACE",
        "HOME",
        "GLLM_CONFIG",
        "GLLM_LAUNCH_MODE",
        "GLLM_NODE_ADDR",
        "GLLM_KEYS",
        "GLLM_KEYS_FILE",
        "GLLM_PP",
        "GLLM_TP",
        "GLLM_EP",
        "GLLM_API_KEY",
        "GLLM_API_KEY_FILE",
        "GLLM_GROUP",
        "GLLM_REVISION",
        "GLLM_JOIN_TIMEOUT",
        "GLLM_HEARTBEAT_TIMEOUT",
        "GLLM_RECOVERY_TIMEOUT",
        DRAIN_DELAY_VARIABLE,
        ENGINE_PORT_VARIABLE,
    }
)


def is_reserved(name: str) -> bool:
    """Whether only the operator may set the variable, because another value would break the group."""
    return name in _RESERVED


def master_address(owner: Owner, group: GroupId) -> str:
    """DNS name of the group's master pod. It contains the group's name, so groups never mix."""
    return f"{group.set_name(owner.name, 'master')}-0.{headless_name(owner.name)}.{owner.namespace}.svc"


def container_env(owner: Owner, source: PodSource, shape: ParallelConfig, group: GroupId, role: str) -> Env:
    """Later variables may refer to earlier ones, so their order matters."""
    several = shape.pods > 1
    env: Env = [
        *pod_names(),
        _value("HOME", "/tmp"),
        _value("GLLM_GROUP", group.name(owner.name)),
        _value("GLLM_REVISION", group.revision),
        _value("GLLM_PP", shape.pipeline),
        _value("GLLM_TP", shape.tensor),
        _value("GLLM_EP", shape.expert),
        _value("GLLM_LAUNCH_MODE", role if several else "normal"),
        _value("MASTER_ADDR", master_address(owner, group)),
        _value("MASTER_PORT", source.network.master_port),
        _field("NODE_RANK", f"metadata.labels['{POD_INDEX}']"),
        _value("NNODES", shape.pods),
        _value("WORLD_SIZE", shape.world),
        _value("LOCAL_WORLD_SIZE", shape.per_pod),
        _field("GLLM_NODE_ADDR", "status.podIP"),
        _value("GLLM_JOIN_TIMEOUT", source.probes.join_timeout_seconds),
        _value("GLLM_HEARTBEAT_TIMEOUT", source.probes.heartbeat_timeout_seconds),
        _value(DRAIN_DELAY_VARIABLE, DRAIN_DELAY_SECONDS),
    ]
    if source.engine_port and role == "master":
        env.append(_value(ENGINE_PORT_VARIABLE, source.engine_port))
    env += [one.env for one in secret_files(owner, source, shape, role)]
    return env + tracing_env(owner, source.tracing) + _network_env(source)


def pod_names() -> Env:
    """Return the variables POD_NAME and POD_NAMESPACE."""
    return [_field("POD_NAME", "metadata.name"), _field("POD_NAMESPACE", "metadata.namespace")]


def _network_env(source: PodSource) -> Env:
    network, rdma = source.network, source.network.rdma
    given: list[tuple[str, object]] = [
        ("NCCL_SOCKET_IFNAME", network.interface),
        ("GLOO_SOCKET_IFNAME", network.interface),
        ("NCCL_DEBUG", network.debug),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", 1),
    ]
    if rdma is None:
        given.append(("NCCL_IB_DISABLE", 1))
    else:
        given += [
            ("NCCL_IB_HCA", rdma.hca),
            ("NCCL_IB_GID_INDEX", rdma.gid_index),
            ("NCCL_IB_TC", rdma.traffic_class),
        ]
    extra = {variable.name: variable.value for variable in network.extra_env}
    env = [_value(name, value) for name, value in given if value is not None and name not in extra]
    return env + [_value(name, value) for name, value in extra.items()]


def _value(name: str, value: object) -> dict[str, Any]:
    return {"name": name, "value": str(value)}


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
