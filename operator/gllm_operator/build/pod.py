"""The pod template of one role of one group."""

from __future__ import annotations

from typing import Any

from gllm_operator.build.args import serve_args
from gllm_operator.build.env import container_env
from gllm_operator.build.model_source import ModelFiles, model_files
from gllm_operator.build.overlay import overlay
from gllm_operator.build.probes import probes, termination_grace
from gllm_operator.build.secret_files import secret_files
from gllm_operator.names import GROUP_NAME, SERVING, GroupId, Owner, group_labels, masters_selector
from gllm_operator.spec.parallel_config import ParallelConfig
from gllm_operator.spec.revision import PodSource

CONTAINER = "gllm"


def pod_template(owner: Owner, source: PodSource, shape: ParallelConfig, group: GroupId, role: str) -> dict[str, Any]:
    labels = group_labels(owner.name, group, role) | ({SERVING: "true"} if role == "master" else {})
    template: dict[str, Any] = {
        "metadata": {"labels": labels, "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER}},
        "spec": _pod_spec(owner, source, shape, group, role),
    }
    own = source.master if role == "master" else source.slave
    for patch in (source.template, own):
        template = overlay(template, patch)
    template["metadata"]["labels"] |= labels  # Not from the overlay: StatefulSets and Services select by them.
    return template


def _pod_spec(owner: Owner, source: PodSource, shape: ParallelConfig, group: GroupId, role: str) -> dict[str, Any]:
    files = model_files(source.model)
    own = {
        "containers": [_container(owner, source, shape, group, role)],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "tmp", "emptyDir": {}},
            *files.volumes,
            *(one.volume for one in secret_files(owner, source, shape, role)),
        ],
        "tolerations": _tolerations(source),
        "topologySpreadConstraints": _spread(owner, group, role),
    }
    return pod_spec(source, own)


def pod_spec(source: PodSource, own: dict[str, Any]) -> dict[str, Any]:
    """Return the fields `own` with those of all pods: account, grace period, security, and download of the model."""
    spec: dict[str, Any] = {
        "serviceAccountName": source.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": termination_grace(source),
        "securityContext": pod_security(source),
        **own,
    }
    if source.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in source.image_pull_secrets]
    if model_files(source.model).download:
        spec["initContainers"] = [download(source)]
    return spec


def _container(owner: Owner, source: PodSource, shape: ParallelConfig, group: GroupId, role: str) -> dict[str, Any]:
    files = model_files(source.model)
    container = base_container(CONTAINER, source) | {
        "args": serve_args(source),
        "env": container_env(owner, source, shape, group, role),
        "resources": _resources(source, shape),
        "securityContext": _security(source),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
            *files.mounts,
            *(one.mount for one in secret_files(owner, source, shape, role)),
        ],
        # The termination message has the last lines of the log, which contain the error.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **probes(source, role),
    }
    if role == "master":
        container["ports"] = [{"name": "http", "containerPort": source.port, "protocol": "TCP"}]
    return container


def download(source: PodSource, name: str = "fetch-model", files: ModelFiles | None = None) -> dict[str, Any]:
    """The init container that downloads a model, by default that of the source."""
    files = files or model_files(source.model)
    return base_container(name, source) | {
        "args": list(files.download),
        "env": [{"name": "HOME", "value": "/tmp"}, *files.download_env],
        "securityContext": _security(source) | {"capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *files.mounts, *files.download_mounts],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def base_container(name: str, source: PodSource) -> dict[str, Any]:
    container: dict[str, Any] = {"name": name, "image": source.image, "command": ["gllm"]}
    if source.image_pull_policy is not None:
        container["imagePullPolicy"] = source.image_pull_policy
    return container


def pod_security(source: PodSource) -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": source.run_as_user,
        "runAsGroup": source.run_as_user,
        "fsGroup": source.run_as_user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _resources(source: PodSource, shape: ParallelConfig) -> dict[str, Any]:
    wanted = {}
    if source.accelerator.type == "cuda":
        wanted[source.accelerator.resource_name] = str(shape.per_pod)
    if source.network.rdma is not None and source.network.rdma.resource_name is not None:
        wanted[source.network.rdma.resource_name] = "1"
    return {"limits": wanted, "requests": wanted} if wanted else {}


def _security(source: PodSource) -> dict[str, Any]:
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if source.network.rdma is not None:
        capabilities["add"] = ["IPC_LOCK"]  # RDMA verbs lock the memory that they register.
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": capabilities,
    }


def _tolerations(source: PodSource) -> list[dict[str, Any]]:
    return [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": source.node_loss_seconds,
        }
        for state in ("not-ready", "unreachable")
    ]


def _spread(owner: Owner, group: GroupId, role: str) -> list[dict[str, Any]]:
    """Spread masters over nodes, so that a lost node ends streams of one group only. Spread a group's slaves too."""
    selector = masters_selector(owner.name) if role == "master" else {GROUP_NAME: group.name(owner.name)}
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
        }
    ]
