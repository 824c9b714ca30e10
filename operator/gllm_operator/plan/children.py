"""Which children are to be written: those that are missing, that are to be different, or that somebody has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gllm_operator.build.autoscaler import KEDA_API
from gllm_operator.build.history import controller_revision
from gllm_operator.build.monitor import MONITORING_API
from gllm_operator.build.statefulset import group_sets
from gllm_operator.digest import digest
from gllm_operator.names import GroupId
from gllm_operator.plan.groups import Group
from gllm_operator.plan.observed import Key, Observed
from gllm_operator.plan.types import Delete, Manifest
from gllm_operator.spec.revision import PodSource

_SINGLES = frozenset(
    {
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("policy/v1", "PodDisruptionBudget"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        (KEDA_API, "ScaledObject"),
        (MONITORING_API, "PodMonitor"),
    }
)
"""Kinds of which one that is not wanted any more is removed."""


def key_of(manifest: Manifest) -> Key:
    return Key(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])


def to_apply(observed: Observed, wanted: Iterable[Manifest]) -> list[Manifest]:
    return [manifest for manifest in wanted if _needs_writing(observed, manifest)]


def _needs_writing(observed: Observed, manifest: Manifest) -> bool:
    key, now = key_of(manifest), digest(manifest)
    refusal = observed.refused.get(key)
    if refusal is not None and refusal.final and refusal.digest == now:
        return False
    child, applied = observed.children.get(key), observed.applied.get(key)
    if child is None:
        return True
    if child.terminating or not child.controlled:
        return False
    return applied is None or (applied.digest, applied.uid, applied.owned) != (now, child.uid, child.owned)


def to_delete(observed: Observed, wanted: Iterable[Manifest]) -> list[Delete]:
    """Singles that are ours and that the spec no longer asks for."""
    keys = {key_of(manifest) for manifest in wanted}
    return [
        Delete(child.key, child.uid, "the spec no longer asks for it")
        for child in observed.children.values()
        if (child.key.api_version, child.key.kind) in _SINGLES
        and child.key not in keys
        and child.controlled
        and not child.terminating
    ]


def sets_of(
    observed: Observed, groups: Iterable[Group], created: Iterable[GroupId], sources: dict[str, PodSource]
) -> list[Manifest]:
    """StatefulSets of the groups that stay, and of new ones. Of a revision that cannot be rendered they stay as is."""
    ids = [group.id for group in groups] + list(created)
    return [
        manifest
        for id in ids
        if id.revision in sources
        for manifest in group_sets(observed.owner, sources[id.revision], id)
    ]


def revisions_of(observed: Observed, sources: dict[str, PodSource], kept: Sequence[str]) -> list[Manifest]:
    """Records of the revisions in `kept` that can be rendered."""
    numbers = {facts.revision: facts.number for facts in observed.revisions}
    fresh = max(numbers.values(), default=0) + 1
    return [
        controller_revision(observed.owner, sources[revision], revision, numbers.get(revision, fresh))
        for revision in dict.fromkeys(kept)
        if revision in sources
    ]


def old_revisions(observed: Observed, kept: Sequence[str], limit: int) -> list[Delete]:
    """Records that nobody needs, beyond the newest `limit`."""
    unused = sorted(
        (facts for facts in observed.revisions if facts.revision not in kept), key=lambda facts: -facts.number
    )
    return [Delete(facts.key, facts.uid, "revisionHistoryLimit") for facts in unused[limit:]]


def refused_revisions(observed: Observed, candidates: Iterable[str]) -> dict[str, str]:
    """Revision to what the API server said, for those of which it does not take the StatefulSets."""
    found = {}
    for revision in candidates:
        for key, refusal in observed.refused.items():
            if refusal.final and key.kind == "StatefulSet" and f"-{revision}-" in key.name:
                found[revision] = refusal.message
    return found


def drains_of(groups: Iterable[Group]) -> list[Delete]:
    """The master's set first: a group without one is on its way out, whoever looks next."""
    return [
        Delete(one.key, one.uid, f"group {group.name} drains")
        for group in groups
        for one in sorted(group.sets, key=lambda one: one.role != "master")
        if not one.terminating
    ]
