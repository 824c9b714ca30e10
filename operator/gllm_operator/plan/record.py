"""status.groups: one entry a group."""

from __future__ import annotations

from gllm_operator.api.status import Failure, GroupStatus, Phase
from gllm_operator.clock import stamp
from gllm_operator.names import GroupId
from gllm_operator.plan.groups import Group
from gllm_operator.plan.observed import PodFacts
from gllm_operator.plan.recovery import Health, is_loading


def group_status(group: Group, health: Health, restarts: int, leaving: bool) -> GroupStatus:
    phase: Phase = "Draining" if leaving or group.draining else health.phase
    return GroupStatus(
        name=group.name,
        index=group.id.index,
        revision=group.id.revision,
        instance=group.id.instance,
        phase=phase,
        ready_ranks=f"{group.ready_pods}/{group.wanted_pods}",
        load_percent=int(100 * group.loaded) if group.loaded is not None and is_loading(group, health) else None,
        restarts=restarts,
        container_restarts=sum(pod.restarts for pod in group.pods),
        in_flight=group.in_flight if phase == "Draining" else None,
        started_at=stamp(group.started),
        ready_at=None if group.ready_since is None else stamp(group.ready_since),
        unready_at=None if group.unready_since is None else stamp(group.unready_since),
        restart_at=None if health.restart_at is None else stamp(health.restart_at),
        last_failure=_last_failure(group),
    )


def new_group_status(id: GroupId, deployment: str, pods: int, restarts: int, now: float) -> GroupStatus:
    return GroupStatus(
        name=id.name(deployment),
        index=id.index,
        revision=id.revision,
        instance=id.instance,
        phase="Pending",
        ready_ranks=f"0/{pods}",
        restarts=restarts,
        started_at=stamp(now),
    )


def _last_failure(group: Group) -> Failure | None:
    found = [_failure(pod) for pod in group.pods if pod.trouble is not None]
    known = group.record.last_failure if group.record is not None else None
    if known is not None:
        found.append(known)
    return max(found, key=lambda failure: (failure.time, failure is known), default=None)


def _failure(pod: PodFacts) -> Failure:
    assert pod.trouble is not None
    return Failure(
        time=stamp(pod.trouble.time),
        rank=pod.rank,
        pod=pod.key.name,
        node=pod.node,
        reason=pod.trouble.reason[:256],
        exit_code=pod.trouble.code,
        message=pod.trouble.message[-1024:],
    )
