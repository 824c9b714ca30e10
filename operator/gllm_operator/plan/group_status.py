"""Entries of status.groups."""

from __future__ import annotations

from gllm_operator.api.status import Failure, GroupStatus, Phase
from gllm_operator.names import GroupId
from gllm_operator.objects import timestamp
from gllm_operator.plan.groups import Group
from gllm_operator.plan.health import Health, is_loading
from gllm_operator.plan.observed import WAITS, ObservedPod, PodFailure


def group_status(group: Group, health: Health, restarts: int, leaving: bool) -> GroupStatus:
    phase: Phase = "Draining" if leaving or group.draining else health.phase
    return GroupStatus(
        name=group.name,
        index=group.id.index,
        revision=group.id.revision,
        instance=group.id.instance,
        phase=phase,
        ready_ranks=f"{group.ready_pods}/{group.desired_pods}",
        load_percent=int(100 * group.loaded) if group.loaded is not None and is_loading(group, health) else None,
        restarts=restarts,
        container_restarts=sum(pod.restarts for pod in group.pods),
        in_flight=group.in_flight if phase == "Draining" else None,
        started_at=timestamp(group.started),
        ready_at=None if group.ready_since is None else timestamp(group.ready_since),
        unready_at=None if group.unready_since is None else timestamp(group.unready_since),
        restart_at=None if health.restart_at is None else timestamp(health.restart_at),
        last_failure=_last_failure(group),
    )


def new_group_status(
    id: GroupId, deployment: str, pods: int, restarts: int, before: GroupStatus | None, now: float
) -> GroupStatus:
    """Status of a group that this pass creates. before: its entry, if an earlier pass tried in vain."""
    return GroupStatus(
        name=id.name(deployment),
        index=id.index,
        revision=id.revision,
        instance=id.instance,
        phase="Pending",
        ready_ranks=f"0/{pods}",
        restarts=restarts,
        started_at=before.started_at if before is not None else timestamp(now),
    )


def _last_failure(group: Group) -> Failure | None:
    """What keeps a pod waiting now, or else the newest failure."""
    failures = [_failure(pod) for pod in group.pods if pod.failure is not None]
    if group.failed_create is not None:
        failures.append(_missing_pod(group, group.failed_create))
    known = group.record.last_failure if group.record is not None else None
    if known is not None and not _only_waits(known):
        failures.append(known)
    return max(failures, key=lambda failure: (_only_waits(failure), failure.time, failure is known), default=None)


def _only_waits(failure: Failure) -> bool:
    return failure.exit_code is None and failure.reason in WAITS


def _failure(pod: ObservedPod) -> Failure:
    assert pod.failure is not None
    return Failure(
        time=timestamp(pod.failure.time),
        rank=pod.rank,
        pod=pod.ref.name,
        node=pod.node,
        reason=pod.failure.reason[:256],
        exit_code=pod.failure.exit_code,
        message=pod.failure.message[-1024:],
    )


def _missing_pod(group: Group, failed: PodFailure) -> Failure:
    """The failure of a pod that does not exist. A pod's number is its rank."""
    rank = min(set(range(group.desired_pods)) - {pod.rank for pod in group.pods}, default=0)
    role = "master" if rank == 0 else "slave"
    name = next((one.ref.name for one in group.sets if one.role == role), group.name)
    return Failure(
        time=timestamp(failed.time),
        rank=rank,
        pod=f"{name}-{rank}",
        reason=failed.reason,
        message=failed.message[:1024],
    )
