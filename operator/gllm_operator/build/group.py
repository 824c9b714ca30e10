"""The StatefulSets of a group, one for its master and one for its slaves."""

from __future__ import annotations

from typing import Any

from gllm_operator.build.pod import pod_template
from gllm_operator.names import GROUP_NAME, ROLE, GroupId, Owner, group_labels, headless_name, metadata
from gllm_operator.spec.parallel_config import ParallelConfig, parallel_config
from gllm_operator.spec.revision import PodSource


def group_sets(owner: Owner, source: PodSource, group: GroupId) -> list[dict[str, Any]]:
    shape = parallel_config(source.parallelism, source.accelerator)
    specs = {"master": _spec(owner, source, shape, group, "master", 1, 0)}
    if shape.pods > 1:
        specs["slave"] = _spec(owner, source, shape, group, "slave", shape.pods - 1, 1)
    return [stateful_set(owner, group, role, spec) for role, spec in specs.items()]


def stateful_set(owner: Owner, group: GroupId, role: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(owner, group.set_name(owner.name, role), group_labels(owner.name, group, role)),
        "spec": spec,
    }


def _spec(
    owner: Owner, source: PodSource, shape: ParallelConfig, group: GroupId, role: str, replicas: int, start: int
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "replicas": replicas,
        "serviceName": headless_name(owner.name),
        # Pods start in parallel, because each waits for the others. A change of the template replaces no pod.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": {GROUP_NAME: group.name(owner.name), ROLE: role}},
        "template": pod_template(owner, source, shape, group, role),
    }
    if start:
        spec["ordinals"] = {"start": start}  # A pod's index is its rank in the group.
    return spec
