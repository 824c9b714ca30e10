"""Converts rendered StatefulSets to processes with the same arguments and environment, on loopback addresses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gllm_operator.build.env import DRAIN_DELAY_VARIABLE
from gllm_operator.build.pod import CONTAINER
from gllm_operator.names import POD_INDEX

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodProcess:
    """A process that stands for a pod's serving container."""

    name: str
    role: str
    rank: int
    address: str
    """Its loopback address."""
    arguments: tuple[str, ...]
    """Arguments of the command `gllm`."""
    env: Mapping[str, str]
    ready_path: str
    """HTTP path of its readiness probe; empty if it has none."""
    port: int


def processes_of(objects: Sequence[Manifest], mounts: Mapping[str, str]) -> list[PodProcess]:
    """Return the pods of the first group, the master first. mounts: local paths by paths in the container."""
    sets = [one for one in objects if one["kind"] == "StatefulSet"]
    groups = sorted({one["metadata"]["labels"]["gllm.dev/index"] for one in sets}, key=int)
    pods = [pod for one in sets if one["metadata"]["labels"]["gllm.dev/index"] == groups[0] for pod in _pods(one)]
    secrets = {one["metadata"]["name"]: _data(one) for one in objects if one["kind"] == "Secret"}
    return [_process(pod, secrets, mounts) for pod in sorted(pods, key=_rank)]


def loopback(rank: int) -> str:
    """The address of a rank within 127.0.0.0/8, all of which is this machine. 127.0.0.1 is left to other programs."""
    return f"127.0.1.{rank + 1}"


def host_paths(objects: Sequence[Manifest]) -> dict[str, str]:
    """Return the paths on the host by paths in the container, for the manifest's hostPath volumes."""
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
    """Return the local path of a path in the container. The longest mount wins."""
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
    _inline_secrets(env, container, pod["spec"], secrets)
    # Pods have no DNS names here, so the master's address replaces its name.
    env["MASTER_ADDR"] = loopback(0)
    env[DRAIN_DELAY_VARIABLE] = "0"  # No load balancer has to notice the drain.
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
    """The value of a variable, as the kubelet resolves it. None if it is in a Secret that only a cluster has."""
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


def _inline_secrets(
    env: dict[str, str], container: Manifest, spec: Manifest, secrets: Mapping[str, Mapping[str, str]]
) -> None:
    """Variables X_FILE with the path of a Secret's file become X with the text, as there are no such mounts here.
    Those of a Secret that only a cluster has are left out."""
    volumes = {one["name"]: one["secret"] for one in spec.get("volumes", []) if "secret" in one}
    for mount in container.get("volumeMounts", []):
        for item in volumes.get(mount["name"], {}).get("items", []):
            path = f"{mount['mountPath']}/{item['path']}"
            for name in [one for one, value in env.items() if value == path]:
                del env[name]
                text = secrets.get(volumes[mount["name"]]["secretName"], {}).get(item["key"])
                if text is not None:
                    env[name.removesuffix("_FILE")] = text


def _data(secret: Manifest) -> dict[str, str]:
    plain: dict[str, str] = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
    plain |= secret.get("stringData", {})
    return plain


def _container(template: Manifest) -> Manifest:
    found: Manifest = next(one for one in template["spec"]["containers"] if one["name"] == CONTAINER)
    return found


def _rank(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"][POD_INDEX])
