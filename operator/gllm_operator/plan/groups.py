"""Groups, put together from their StatefulSets, their pods and their last entry in status.groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gllm_operator.api.status import GroupStatus
from gllm_operator.names import GroupId
from gllm_operator.objects import seconds_of
from gllm_operator.plan.observed import CANNOT_START, Observed, ObservedPod, ObservedSet, PodFailure
from gllm_operator.spec.parallel_config import parallel_config

STUCK_SECONDS = 60.0
"""Seconds after the end of its grace period until a terminating pod's node counts as lost."""


@dataclass(frozen=True)
class Group:
    id: GroupId
    name: str
    sets: tuple[ObservedSet, ...]
    pods: tuple[ObservedPod, ...]
    """The newest pod of each rank."""
    desired_pods: int
    record: GroupStatus | None
    """The entry in status.groups that the last pass wrote."""
    ready: bool
    ready_since: float | None
    """When it last became ready; None: never."""
    unready_since: float | None
    """When it stopped being ready; None: it is ready, or never was."""
    started: float
    in_flight: int | None = None
    loaded: float | None = None
    stuck: bool = False
    """Whether all its pods are on lost nodes and terminating."""
    failed_create: PodFailure | None = None
    """Why a StatefulSet cannot create a pod that is missing now."""

    @property
    def draining(self) -> bool:
        """The master set is created first and deleted first, so a group without one is draining."""
        masters = [one for one in self.sets if one.role == "master"]
        return not masters or any(one.terminating for one in self.sets if one.role == "master")

    @property
    def evicted(self) -> bool:
        """Whether its master is evicted. It finishes its requests, but accepts none until its pod is created again."""
        return any(pod.evicted and pod.role == "master" for pod in self.pods)

    @property
    def has_served(self) -> bool:
        return self.ready_since is not None

    @property
    def pending(self) -> bool:
        """Whether a pod is missing or not scheduled."""
        return len(self.pods) < self.desired_pods or any(not pod.scheduled for pod in self.pods)

    @property
    def blocked(self) -> bool:
        """Whether a container cannot start without help, such as that of an image that cannot be pulled."""
        return any(pod.failure is not None and pod.failure.reason in CANNOT_START for pod in self.pods)

    @property
    def ready_pods(self) -> int:
        return sum(pod.ready and not pod.terminating for pod in self.pods)

    def available(self, now: float, min_ready: float) -> bool:
        return self.ready and not self.draining and self.ready_since is not None and now - self.ready_since >= min_ready


def groups_of(observed: Observed, now: float) -> list[Group]:
    """Every group that has a StatefulSet or a pod, in the order of ids."""
    ids = {one.group for one in observed.sets} | {pod.group for pod in observed.pods}
    records = {record.name: record for record in observed.status.groups}
    pods_of_revision = _pods_of_revisions(observed)
    name = observed.owner.name
    return [_group(observed, id, records.get(id.name(name)), pods_of_revision, now) for id in sorted(ids)]


def _pods_of_revisions(observed: Observed) -> dict[str, int]:
    sizes = {}
    for one in observed.revisions:
        if one.rendering is not None:
            source = one.rendering.source
            sizes[one.revision] = parallel_config(source.parallelism, source.accelerator).pods
    return sizes


def _group(observed: Observed, id: GroupId, record: GroupStatus | None, sizes: dict[str, int], now: float) -> Group:
    sets = tuple(one for one in observed.sets if one.group == id)
    pods = _newest(pod for pod in observed.pods if pod.group == id)
    name = id.name(observed.owner.name)
    master = next((pod for pod in pods if pod.role == "master"), None)
    desired = sizes.get(id.revision) or max(sum(one.replicas for one in sets), len(pods))
    # A master that waits for its slaves passes its readiness probe, since it accepts requests.
    ready = master is not None and len(pods) >= desired and all(pod.ready and not pod.terminating for pod in pods)
    ready_since = seconds_of(record.ready_at) if record is not None else None
    unready_since = seconds_of(record.unready_at) if record is not None else None
    if ready:
        if ready_since is None or unready_since is not None:
            # The time at which the last pod became ready: the master may have been ready throughout.
            ready_since = min(now, max(now if pod.ready_since is None else pod.ready_since for pod in pods))
        unready_since = None
    elif ready_since is not None and unready_since is None:
        unready_since = now
    created = [one.created for one in sets] + [pod.created for pod in pods]
    started = (seconds_of(record.started_at) if record is not None else None) or min(created, default=now)
    return Group(
        id=id,
        name=name,
        sets=sets,
        pods=pods,
        desired_pods=desired,
        record=record,
        ready=ready,
        ready_since=ready_since,
        unready_since=unready_since,
        started=started,
        in_flight=observed.in_flight.get(name),
        loaded=observed.loaded.get(name),
        stuck=bool(pods) and all(is_lost(pod, now) for pod in pods),
        failed_create=_failed_create(sets, pods),
    )


def _failed_create(sets: tuple[ObservedSet, ...], pods: tuple[ObservedPod, ...]) -> PodFailure | None:
    """The newest failure of a set that lacks pods. What failed before the set created its last pod is over."""
    found = []
    for one in sets:
        own = [pod.created for pod in pods if pod.role == one.role]
        failed = one.failed_create
        if failed is not None and len(own) < one.replicas and failed.time >= max(own, default=one.created):
            found.append(failed)
    return max(found, key=lambda failed: failed.time, default=None)


def _newest(pods: Iterable[ObservedPod]) -> tuple[ObservedPod, ...]:
    by_rank: dict[int, ObservedPod] = {}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.uid)):
        by_rank[pod.rank] = pod
    return tuple(by_rank[rank] for rank in sorted(by_rank))


def is_lost(pod: ObservedPod, now: float) -> bool:
    """Whether the pod terminates on a node that is gone, so that no kubelet will remove it."""
    if not pod.terminating:
        return False
    return pod.node_lost or (pod.gone_by is not None and now > pod.gone_by + STUCK_SECONDS)
