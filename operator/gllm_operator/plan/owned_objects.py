"""Which objects to write and delete: missing and changed ones, objects edited by others, ones no longer needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gllm_operator.build.integrations import KEDA_API, MONITORING_API
from gllm_operator.build.rendering import Rendering, controller_revision
from gllm_operator.build.route import GATEWAY_API, INFERENCE_API
from gllm_operator.names import GroupId
from gllm_operator.objects import Manifest, digest, ref_of
from gllm_operator.plan.actions import Delete
from gllm_operator.plan.groups import Group
from gllm_operator.plan.observed import Observed
from gllm_operator.plan.refusals import waits

_SINGLETON_KINDS = frozenset(
    {
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("apps/v1", "Deployment"),
        ("policy/v1", "PodDisruptionBudget"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        (KEDA_API, "ScaledObject"),
        (MONITORING_API, "PodMonitor"),
        (GATEWAY_API, "HTTPRoute"),
        (INFERENCE_API, "InferencePool"),
    }
)
"""Kinds whose objects are deleted when the spec no longer asks for them."""


def to_apply(observed: Observed, desired: Iterable[Manifest], now: float) -> list[Manifest]:
    return [manifest for manifest in desired if _needs_writing(observed, manifest, now)]


def _needs_writing(observed: Observed, manifest: Manifest, now: float) -> bool:
    ref, new = ref_of(manifest), digest(manifest)
    if waits(observed, ref, new, now):
        return False
    owned, applied = observed.owned.get(ref), observed.applied.get(ref)
    if owned is None:
        return True
    if owned.terminating or not owned.controlled:
        return False
    current = (new, owned.uid, owned.fields_digest)
    return applied is None or (applied.digest, applied.uid, applied.fields_digest) != current


def to_delete(observed: Observed, desired: Iterable[Manifest]) -> list[Delete]:
    """Singletons of the deployment that the spec no longer asks for."""
    refs = {ref_of(manifest) for manifest in desired}
    return [
        Delete(owned.ref, owned.uid, "the spec no longer asks for it")
        for owned in observed.owned.values()
        if (owned.ref.api_version, owned.ref.kind) in _SINGLETON_KINDS
        and owned.ref not in refs
        and owned.controlled
        and not owned.terminating
    ]


def desired_sets(
    observed: Observed, groups: Iterable[Group], created: Iterable[GroupId], renderings: Mapping[str, Rendering]
) -> list[Manifest]:
    """StatefulSets of the groups that stay and of new groups. Those of existing groups are left alone if their revision
    cannot be read, or an earlier version did not store what it rendered: rendered again, they might differ."""
    ids = [group.id for group in groups if group.id.revision in renderings and renderings[group.id.revision].sets]
    ids += [id for id in created if id.revision in renderings]
    return [manifest for id in ids for manifest in renderings[id.revision].sets_of(observed.owner, id)]


def desired_revisions(observed: Observed, renderings: Mapping[str, Rendering], kept: Sequence[str]) -> list[Manifest]:
    """ControllerRevisions of the revisions in `kept` that can be read."""
    numbers = {one.revision: one.number for one in observed.revisions}
    next_number = max(numbers.values(), default=0) + 1
    return [
        controller_revision(observed.owner, renderings[revision], revision, numbers.get(revision, next_number))
        for revision in dict.fromkeys(kept)
        if revision in renderings
    ]


def old_revisions(observed: Observed, kept: Sequence[str], limit: int) -> list[Delete]:
    """Unused ControllerRevisions beyond the newest `limit`."""
    unused = sorted((one for one in observed.revisions if one.revision not in kept), key=lambda one: -one.number)
    return [Delete(one.ref, one.uid, "revisionHistoryLimit") for one in unused[limit:]]


def drains_of(groups: Iterable[Group]) -> list[Delete]:
    """Deletions of StatefulSets, the master's first: a group without a master set counts as draining."""
    return [
        Delete(one.ref, one.uid, f"group {group.name} drains")
        for group in groups
        for one in sorted(group.sets, key=lambda one: one.role != "master")
        if not one.terminating
    ]
