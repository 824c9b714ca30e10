"""The StatefulSets of a group, one for its master and one for its slaves, and the ControllerRevision of its source."""

from __future__ import annotations

from typing import Any

from gllm_operator.build.pod import pod_template
from gllm_operator.names import GROUP_NAME, REVISION, ROLE, GroupId, Owner, group_labels, headless_name, metadata
from gllm_operator.spec.parallel_config import ParallelConfig, parallel_config
from gllm_operator.spec.revision import PodSource, record_of


def group_sets(owner: Owner, source: PodSource, group: GroupId) -> list[dict[str, Any]]:
    shape = parallel_config(source.parallelism, source.accelerator)
    sets = [_stateful_set(owner, source, shape, group, "master", 1, 0)]
    if shape.pods > 1:
        sets.append(_stateful_set(owner, source, shape, group, "slave", shape.pods - 1, 1))
    return sets


def _stateful_set(
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
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(owner, group.set_name(owner.name, role), group_labels(owner.name, group, role)),
        "spec": spec,
    }


def controller_revision(owner: Owner, source: PodSource, revision: str, number: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(owner, f"{owner.name}-{revision}", {REVISION: revision}),
        "revision": number,
        "data": record_of(source),
    }
