"""Secrets as files in the container, and the variables with their paths.

Not as environment: that is inherited by every process, and shows in /proc and in `kubectl exec -- env`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gllm_operator.api.types import KeyRef
from gllm_operator.names import Owner, keys_name
from gllm_operator.spec.parallel_config import ParallelConfig
from gllm_operator.spec.revision import PodSource

FOLDER = "/run/secrets/gllm"
KEYS_KEY = "keys"
"""The key within the Secret with the CURVE keys."""


@dataclass(frozen=True, slots=True)
class SecretFile:
    name: str
    """The name of the volume, and of its folder."""
    variable: str
    """The environment variable that holds the path."""
    secret: str
    key: str

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.name}/value"

    @property
    def env(self) -> dict[str, Any]:
        return {"name": self.variable, "value": self.path}

    @property
    def volume(self) -> dict[str, Any]:
        # 0440: the group is the pod's fsGroup.
        items = [{"key": self.key, "path": "value"}]
        return {"name": self.name, "secret": {"secretName": self.secret, "defaultMode": 0o440, "items": items}}

    @property
    def mount(self) -> dict[str, Any]:
        return {"name": self.name, "mountPath": f"{FOLDER}/{self.name}", "readOnly": True}


def secret_files(owner: Owner, source: PodSource, shape: ParallelConfig, role: str) -> tuple[SecretFile, ...]:
    """Of the serving container of a master, slave or gateway: the keys of links, and the API key."""
    found = []
    if shape.pods > 1 or source.engine_port:
        found.append(link_keys(owner.name, "link-keys"))
    if source.api_key and role != "slave":
        found.append(SecretFile("api-key", "GLLM_API_KEY_FILE", source.api_key["name"], source.api_key["key"]))
    return tuple(found)


def link_keys(deployment: str, name: str) -> SecretFile:
    return SecretFile(name, "GLLM_KEYS_FILE", keys_name(deployment), KEYS_KEY)


def hub_token(reference: KeyRef, name: str) -> SecretFile:
    """Of the container that downloads the model; huggingface_hub reads the file."""
    return SecretFile(name, "HF_TOKEN_PATH", reference.name, reference.key)
