"""From rendered StatefulSets to processes: the same arguments and environment, on loopback addresses. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gllm_operator.build.pod import CONTAINER
from gllm_operator.names import POD_INDEX

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodProcess:
    """What the kubelet would start."""

    name: str
    role: str
    rank: int
    address: str
    """Its own, of the loopback."""
    arguments: tuple[str, ...]
    """After the command, which is `gllm`."""
    env: Mapping[str, str]
    ready_path: str
    """HTTP path of its readiness probe; empty: it has none."""
    port: int


def processes_of(objects: Sequence[Manifest], mounts: Mapping[str, str]) -> list[PodProcess]:
    """The pods of the first group, master first. mounts: paths in the container to paths of this machine."""
    sets = [one for one in objects if one["kind"] == "StatefulSet"]
    groups = sorted({one["metadata"]["labels"]["gllm.dev/index"] for one in sets}, key=int)
    pods = [pod for one in sets if one["metadata"]["labels"]["gllm.dev/index"] == groups[0] for pod in _pods(one)]
    secrets = {one["metadata"]["name"]: _data(one) for one in objects if one["kind"] == "Secret"}
    return [_process(pod, secrets, mounts) for pod in sorted(pods, key=_rank)]


def loopback(rank: int) -> str:
    """All of 127.0.0.0/8 is this machine; 127.0.0.1 itself is left to others."""
    return f"127.0.1.{rank + 1}"


def host_paths(objects: Sequence[Manifest]) -> dict[str, str]:
    """Paths in the container that hostPath volumes of the manifest put there."""
    found = {}
    for one in objects:
        if one["kind"] == "StatefulSet":
            spec = one["spec"]["template"]["spec"]
            sources = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
            for mount in _container(one["spec"]["template"]).get("volumeMounts", []):
                if mount["name"] in sources:
                    found[mount["mountPath"]] = sources[mount["name"]] + "/" + mount.get("subPath", "")
    return {inside: path.rstrip("/") for inside, path in found.items()}


def translate(path: str, mounts: Mapping[str, str]) -> str:
    """A path of the container on this machine; the longest mount wins."""
    for inside in sorted(mounts, key=len, reverse=True):
        if path == inside or path.startswith(inside.rstrip("/") + "/"):
            return mounts[inside] + path[len(inside.rstrip("/")) :]
    return path


def _pods(one: Manifest) -> list[Manifest]:
    start = one["spec"].get("ordinals", {}).get("start", 0)
    template = one["spec"]["template"]
    pods = []
    for index in range(start, start + one["spec"]["replicas"]):
        labels = template["metadata"]["labels"] | {POD_INDEX: str(index)}
        metadata = {
            "name": f"{one['metadata']['name']}-{index}",
            "namespace": one["metadata"]["namespace"],
            "labels": labels,
        }
        pods.append({"metadata": metadata, "spec": template["spec"], "status": {"podIP": loopback(index)}})
    return pods


def _process(pod: Manifest, secrets: Mapping[str, Mapping[str, str]], mounts: Mapping[str, str]) -> PodProcess:
    container = next(one for one in pod["spec"]["containers"] if one["name"] == CONTAINER)
    env: dict[str, str] = {}
    for variable in container["env"]:
        value = _value(variable, pod, secrets)
        if value is not None:
            env[variable["name"]] = value
    # There is no DNS for pods here; the name stands for the master's address.
    env["MASTER_ADDR"] = loopback(0)
    command, model, *rest = container["args"]
    ready = container["readinessProbe"].get("httpGet", {})
    port = next((one["containerPort"] for one in container.get("ports", []) if one.get("name") == "http"), 0)
    return PodProcess(
        name=pod["metadata"]["name"],
        role=pod["metadata"]["labels"]["gllm.dev/role"],
        rank=_rank(pod),
        address=loopback(_rank(pod)),
        arguments=(command, translate(model, mounts), *rest),
        env=env,
        ready_path=ready.get("path", ""),
        port=port,
    )


def _value(variable: Manifest, pod: Manifest, secrets: Mapping[str, Mapping[str, str]]) -> str | None:
    """As the kubelet would; None: a Secret that only the cluster has."""
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if "secretKeyRef" in source:
        return secrets.get(source["secretKeyRef"]["name"], {}).get(source["secretKeyRef"]["key"])
    path = source.get("fieldRef", {}).get("fieldPath", "")
    if path.startswith("metadata.labels['"):
        return str(pod["metadata"]["labels"].get(path[len("metadata.labels['") : -2], ""))
    part, _, field = path.partition(".")
    return str(pod.get(part, {}).get(field, ""))


def _data(secret: Manifest) -> dict[str, str]:
    plain: dict[str, str] = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
    plain |= secret.get("stringData", {})
    return plain


def _container(template: Manifest) -> Manifest:
    found: Manifest = next(one for one in template["spec"]["containers"] if one["name"] == CONTAINER)
    return found


def _rank(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"][POD_INDEX])
