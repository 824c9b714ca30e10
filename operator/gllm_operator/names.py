"""Names, labels and owner references of the objects that the operator creates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "gllm.dev/"
MANAGER = "gllm-operator"
"""Field manager of server-side apply, and the value of app.kubernetes.io/managed-by."""
FINALIZER = PREFIX + "drain"
RESTART_ANNOTATION = PREFIX + "restart"
"""Annotation of an LLMDeployment. A new value makes a new revision, so all groups are replaced, also failed ones."""
OPERATOR = PREFIX + "operator"
"""Annotation of an LLMDeployment: NAMESPACE/NAME of the operator that manages it. All others stand back."""

DEPLOYMENT, ROLE, INDEX, REVISION, INSTANCE, GROUP_NAME = (
    PREFIX + name for name in ("deployment", "role", "index", "revision", "instance", "group")
)
SERVING = PREFIX + "serving"
"""Label of masters: the Service selects those with "true". It is not part of a StatefulSet's selector."""
GATEWAY = PREFIX + "gateway"
"""Label of the gateway pods of a deployment."""
SHARED_GATEWAY = "gateway.gllm.dev/"
"""Beginning of a label of gateway pods, which ends with the name of a further deployment that they serve."""
MANAGED_BY = "app.kubernetes.io/managed-by"
POD_INDEX = "apps.kubernetes.io/pod-index"
"""Set by the StatefulSet controller on every pod."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The LLMDeployment that owns an object."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of all its objects, from spec.objectMeta."""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> dict[str, object]:
        return {
            "apiVersion": "gllm.dev/v1alpha1",
            "kind": "LLMDeployment",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


@dataclass(frozen=True, slots=True, order=True)
class GroupId:
    """Identifies a group by its ordinal, its revision, and a number that distinguishes groups with equal ones."""

    index: int
    revision: str
    instance: int

    def name(self, deployment: str) -> str:
        return f"{deployment}-{self.index}-{self.revision}-{self.instance}"

    def set_name(self, deployment: str, role: str) -> str:
        return f"{self.name(deployment)}-{role[0]}"


_SET_NAME = re.compile(r"(.+)-(\d+)-([a-z0-9]+)-(\d+)-([ms])")


def parse_set_name(name: str) -> tuple[str, GroupId] | None:
    """The inverse of `set_name`: the deployment and the group of a StatefulSet; None if its name is another's."""
    match = _SET_NAME.fullmatch(name)
    return None if match is None else (match[1], GroupId(int(match[2]), match[3], int(match[4])))


def base_labels(deployment: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "gllm",
        "app.kubernetes.io/instance": deployment,
        MANAGED_BY: MANAGER,
        DEPLOYMENT: deployment,
    }


def metadata(owner: Owner, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """metadata of an object of the deployment."""
    made: dict[str, Any] = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {**owner.labels, **base_labels(owner.name), **(labels or {})},
        "ownerReferences": [owner.reference],
    }
    return made | ({"annotations": dict(owner.annotations)} if owner.annotations else {})


def group_labels(deployment: str, group: GroupId, role: str) -> dict[str, str]:
    return base_labels(deployment) | {
        "app.kubernetes.io/component": role,
        ROLE: role,
        INDEX: str(group.index),
        REVISION: group.revision,
        INSTANCE: str(group.instance),
        GROUP_NAME: group.name(deployment),
    }


def masters_selector(deployment: str) -> dict[str, str]:
    return {DEPLOYMENT: deployment, ROLE: "master"}


def gateway_name(deployment: str) -> str:
    """The name of the gateways' Deployment, PodDisruptionBudget, NetworkPolicy and PodMonitor."""
    return f"{deployment}-gateway"


def gateways_selector(deployment: str) -> dict[str, str]:
    """Without the label of the deployment: budgets and groups count only pods of groups."""
    return {GATEWAY: deployment}


def shared_gateways_selector(deployment: str) -> dict[str, str]:
    """Those gateway pods of another deployment that serve this one too (spec.gateway.parent)."""
    return {SHARED_GATEWAY + deployment: "true"}


def engines_name(deployment: str) -> str:
    """The name of the Service whose DNS name has the addresses of all masters."""
    return f"{deployment}-engines"


def headless_name(deployment: str) -> str:
    """The name of the Service that gives every pod its DNS name."""
    return f"{deployment}-pods"


def keys_name(deployment: str) -> str:
    """The name of the Secret with the CURVE keys."""
    return f"{deployment}-keys"
