"""Converts rendered pods to processes with the same arguments and environment, on loopback addresses."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gllm_operator.build import gateway
from gllm_operator.build.env import DRAIN_DELAY_VARIABLE
from gllm_operator.build.pod import CONTAINER
from gllm_operator.names import POD_INDEX, ROLE

Manifest = dict[str, Any]

_FRONT = "127.0.0.1"
"""Where clients send their requests."""


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
    """Of its HTTP server; 0 if it has none."""
    host: str
    """An address of its HTTP server."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def processes_of(
    objects: Sequence[Manifest], mounts: Mapping[str, str], place: int = 0, *, shared: bool = False
) -> list[PodProcess]:
    """Return the pods of the first group, the master first, then a gateway if there are any.

    mounts: local paths by paths in the container. place: another one for each deployment. With a gateway, or one that
    is shared, each process listens on an address of its own, because all have the same port.
    """
    sets = [one for one in objects if one["kind"] == "StatefulSet"]
    groups = sorted({one["metadata"]["labels"]["gllm.dev/index"] for one in sets}, key=int)
    pods = [
        pod for one in sets if one["metadata"]["labels"]["gllm.dev/index"] == groups[0] for pod in _pods(one, place)
    ]
    secrets = {one["metadata"]["name"]: _data(one) for one in objects if one["kind"] == "Secret"}
    pods.sort(key=lambda pod: int(pod["metadata"]["labels"][POD_INDEX]))
    gateways = [_gateway_pod(one) for one in objects if one["kind"] == "Deployment"]
    found = [_process(pod, secrets, mounts, place) for pod in [*pods, *gateways]]
    return [_with_own_address(one, place) for one in found] if gateways or shared else found


def front_of(specs: Sequence[PodProcess]) -> PodProcess:
    """The process to which clients send their requests."""
    return next((one for one in specs if one.role == gateway.CONTAINER), specs[0])


def loopback(rank: int, place: int = 0) -> str:
    """The address of a rank within 127.0.0.0/8, all of which is this machine. 127.0.0.1 is left to other programs."""
    return f"127.0.{place + 1}.{rank + 1}"


def host_paths(objects: Sequence[Manifest]) -> dict[str, str]:
    """Return the paths on the host by paths in the container, for the manifest's hostPath volumes."""
    found = {}
    for one in objects:
        if one["kind"] in ("StatefulSet", "Deployment"):
            spec = one["spec"]["template"]["spec"]
            sources = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
            for mount in _container(one["spec"]["template"]["spec"]).get("volumeMounts", []):
                if mount["name"] in sources:
                    found[mount["mountPath"]] = sources[mount["name"]] + "/" + mount.get("subPath", "")
    return {inside: path.rstrip("/") for inside, path in found.items()}


def translate(path: str, mounts: Mapping[str, str]) -> str:
    """Return the local path of a path in the container. The longest mount wins."""
    for inside in sorted(mounts, key=len, reverse=True):
        if path == inside or path.startswith(inside.rstrip("/") + "/"):
            return mounts[inside] + path[len(inside.rstrip("/")) :]
    return path


def _pods(one: Manifest, place: int) -> list[Manifest]:
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
        pods.append({"metadata": metadata, "spec": template["spec"], "status": {"podIP": loopback(index, place)}})
    return pods


def _process(
    pod: Manifest, secrets: Mapping[str, Mapping[str, str]], mounts: Mapping[str, str], place: int
) -> PodProcess:
    labels = pod["metadata"]["labels"]
    rank = int(labels.get(POD_INDEX, 0))
    container = _container(pod["spec"])
    env: dict[str, str] = {}
    for variable in container["env"]:
        value = _value(variable, pod, secrets)
        if value is not None:
            env[variable["name"]] = _with_references(value, env)
    _inline_secrets(env, container, pod["spec"], secrets)
    # Pods have no DNS names here, so the master's address replaces its name.
    env["MASTER_ADDR"] = loopback(0, place)
    env[DRAIN_DELAY_VARIABLE] = "0"  # No load balancer has to notice the drain.
    command, model, *rest = container["args"]
    ready = container["readinessProbe"].get("httpGet", {})
    port = next((one["containerPort"] for one in container.get("ports", []) if one.get("name") == "http"), 0)
    return PodProcess(
        name=pod["metadata"]["name"],
        role=labels.get(ROLE, gateway.CONTAINER),
        rank=rank,
        address=pod["status"]["podIP"],
        arguments=(command, translate(model, mounts), *rest),
        env=env,
        ready_path=ready.get("path", ""),
        port=port,
        host=_FRONT,
    )


def _gateway_pod(deployment: Manifest) -> Manifest:
    template = deployment["spec"]["template"]
    metadata = {
        "name": deployment["metadata"]["name"],
        "namespace": deployment["metadata"]["namespace"],
        "labels": template["metadata"]["labels"],
    }
    return {"metadata": metadata, "spec": template["spec"], "status": {"podIP": _FRONT}}


def _with_own_address(process: PodProcess, place: int) -> PodProcess:
    """Let a process listen on its own address only, and a gateway find the master by it."""
    arguments = list(process.arguments)
    for at, flag in enumerate(process.arguments[:-1]):
        if flag == "--host":
            arguments[at + 1] = process.address
        elif flag == "--engines":
            arguments[at + 1] = f"{loopback(0, place)}:{arguments[at + 1].rpartition(':')[2]}"
    return replace(process, arguments=tuple(arguments), host=process.address)


def _with_references(value: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable of that name, if it comes before, as the kubelet does."""
    return re.sub(r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), value)


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


def _container(spec: Manifest) -> Manifest:
    """The container that serves: the group's, or the gateway's."""
    containers = {one["name"]: one for one in spec["containers"]}
    found: Manifest = containers.get(CONTAINER) or containers[gateway.CONTAINER]
    return found
