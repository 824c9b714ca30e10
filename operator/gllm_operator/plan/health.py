"""Groups that do not heal by themselves: when they are broken, and when they are replaced.

Most failures heal without the operator: the supervisor restarts processes, StatefulSets recreate pods, and the pods
join their group again with the requests that it had. This module handles the remaining ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gllm_operator.api.availability import Recovery
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import OrdinalStatus, Phase
from gllm_operator.objects import seconds_of
from gllm_operator.plan.groups import Group


@dataclass(frozen=True, slots=True)
class Health:
    """The phase of a group, and when it changes by itself. Times are seconds since the epoch."""

    phase: Phase
    restart_at: float | None = None
    """When a broken group is replaced."""
    counted: bool = False
    """Whether it was found broken in this pass; then the restart counter of its ordinal grows."""
    due_at: float | None = None
    """When the phase has to be computed again."""

    @property
    def replace(self) -> bool:
        return self.phase == "Broken" and self.restart_at is not None


def health_of(group: Group, spec: LLMDeploymentSpec, ordinals: Sequence[OrdinalStatus], now: float) -> Health:
    if group.draining:
        return Health("Draining")
    if group.ready:
        return Health("Ready")
    deadline = broken_at(group, spec)
    if deadline is None or now < deadline:
        return Health(_waiting_phase(group), due_at=deadline)
    recovery = spec.recovery
    if recovery.policy == "None":
        return Health("Failed")
    known = seconds_of(group.record.restart_at) if group.record is not None else None
    restarts = restarts_of(group, ordinals)
    if known is None:
        if restarts >= recovery.max_group_restarts:
            return Health("Failed")
        restart_at = now + backoff(recovery, restarts)
        return Health("Broken" if restart_at <= now else "BackingOff", restart_at, counted=True, due_at=restart_at)
    return Health("Broken" if known <= now else "BackingOff", known, due_at=known)


def is_loading(group: Group, health: Health) -> bool:
    """Whether a group has all its pods and is about to serve, for the first time or again."""
    return health.phase in ("Loading", "Recovering") and not group.pending


def broken_at(group: Group, spec: LLMDeploymentSpec) -> float | None:
    """When a group that is not ready counts as broken. None while its pods wait to be scheduled: the pods of a new
    group would wait as well."""
    if group.pending:
        return None
    if group.unready_since is not None:
        return group.unready_since + spec.recovery.deadline_seconds
    return group.started + spec.probes.startup_deadline_seconds + spec.recovery.deadline_seconds


def backoff(recovery: Recovery, restarts: int) -> float:
    """Seconds to wait before the next restart: 0, then backoffSeconds, doubled each time up to backoffMaxSeconds."""
    if restarts == 0:
        return 0.0
    return min(float(recovery.backoff_max_seconds), recovery.backoff_seconds * 2.0 ** min(restarts - 1, 30))


def restarts_of(group: Group, ordinals: Sequence[OrdinalStatus]) -> int:
    ordinal = next((one for one in ordinals if one.index == group.id.index), None)
    return ordinal.restarts if ordinal is not None and ordinal.revision == group.id.revision else 0


def is_stable(group: Group, spec: LLMDeploymentSpec, now: float) -> bool:
    return group.available(now, spec.recovery.stable_after_seconds)


def _waiting_phase(group: Group) -> Phase:
    if group.has_served:
        return "Recovering"
    return "Pending" if group.pending or group.blocked else "Loading"
