"""Groups as the planner sees them: sets and pods put together, with what is remembered of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gllm_operator.api.status import GroupStatus
from gllm_operator.clock import seconds_of
from gllm_operator.names import GroupId
from gllm_operator.plan.observed import Observed, PodFacts, SetFacts
from gllm_operator.spec.shape import group_shape

STUCK_SECONDS = 60.0
"""How long after its grace a terminating pod may take before its node counts as lost."""


@dataclass(frozen=True)
class Group:
    id: GroupId
    name: str
    sets: tuple[SetFacts, ...]
    pods: tuple[PodFacts, ...]
    """Not those of an earlier life: one for each rank at most, the newest."""
    wanted_pods: int
    record: GroupStatus | None
    ready: bool
    ready_since: float | None
    """Since when it is ready, or was the last time; None: never."""
    unready_since: float | None
    """Since when it is not ready, having been so."""
    started: float
    in_flight: int | None = None
    loaded: float | None = None
    stuck: bool = False
    """It is draining, and all that is left are pods on lost nodes."""

    @property
    def draining(self) -> bool:
        """A master set is made first and deleted first: what has none is on its way out."""
        masters = [one for one in self.sets if one.role == "master"]
        return not masters or any(one.terminating for one in self.sets if one.role == "master")

    @property
    def has_served(self) -> bool:
        return self.ready_since is not None

    @property
    def pending(self) -> bool:
        """Whether a pod waits for a place on a node, or to be made."""
        return len(self.pods) < self.wanted_pods or any(not pod.scheduled for pod in self.pods)

    @property
    def ready_pods(self) -> int:
        return sum(pod.ready and not pod.terminating for pod in self.pods)

    def available(self, now: float, min_ready: float) -> bool:
        return self.ready and not self.draining and self.ready_since is not None and now - self.ready_since >= min_ready


def groups_of(observed: Observed, now: float) -> list[Group]:
    """Every group that has a set or a pod, by id."""
    ids = {one.group for one in observed.sets} | {pod.group for pod in observed.pods}
    records = {record.name: record for record in observed.status.groups}
    pods_of_revision = _pods_of_revisions(observed)
    return [_group(observed, id, records.get(id.name(observed.owner.name)), pods_of_revision, now)
            for id in sorted(ids)]  # fmt: skip


def _pods_of_revisions(observed: Observed) -> dict[str, int]:
    sizes = {}
    for facts in observed.revisions:
        if facts.source is not None:
            sizes[facts.revision] = group_shape(facts.source.parallelism, facts.source.accelerator).pods
    return sizes


def _group(observed: Observed, id: GroupId, record: GroupStatus | None, sizes: dict[str, int], now: float) -> Group:
    sets = tuple(one for one in observed.sets if one.group == id)
    pods = _newest(pod for pod in observed.pods if pod.group == id)
    name = id.name(observed.owner.name)
    master = next((pod for pod in pods if pod.role == "master"), None)
    wanted = sizes.get(id.revision) or max(sum(one.replicas for one in sets), len(pods))
    # A master that waits for its slaves is ready to Kubernetes, since it takes requests.
    ready = master is not None and len(pods) >= wanted and all(pod.ready and not pod.terminating for pod in pods)
    ready_since = seconds_of(record.ready_at) if record is not None else None
    unready_since = seconds_of(record.unready_at) if record is not None else None
    if ready:
        if ready_since is None or unready_since is not None:
            # When the last pod became ready: the master may have been all the time.
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
        wanted_pods=wanted,
        record=record,
        ready=ready,
        ready_since=ready_since,
        unready_since=unready_since,
        started=started,
        in_flight=observed.in_flight.get(name),
        loaded=observed.loaded.get(name),
        stuck=bool(pods) and all(is_lost(pod, now) for pod in pods),
    )


def _newest(pods: Iterable[PodFacts]) -> tuple[PodFacts, ...]:
    by_rank: dict[int, PodFacts] = {}
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.uid)):
        by_rank[pod.rank] = pod
    return tuple(by_rank[rank] for rank in sorted(by_rank))


def is_lost(pod: PodFacts, now: float) -> bool:
    """Whether nobody will confirm that the pod ended: its node is gone."""
    if not pod.terminating:
        return False
    return pod.given_up or (pod.gone_by is not None and now > pod.gone_by + STUCK_SECONDS)
