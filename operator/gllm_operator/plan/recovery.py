"""Groups that do not heal by themselves: when they are broken, and when they are replaced.

A group heals a lot by itself: the supervisor restarts its processes, StatefulSets bring back its pods, and the pods
find each other again with the requests they had. This is for what that cannot mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gllm_operator.api.lifecycle import Recovery
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Phase, Place
from gllm_operator.clock import seconds_of
from gllm_operator.plan.groups import Group


@dataclass(frozen=True, slots=True)
class Health:
    """What recovery thinks of a group."""

    phase: Phase
    restart_at: float | None = None
    """A broken group: when it is replaced."""
    counted: bool = False
    """It was found broken just now, so the restarts of its place go up."""
    due_at: float | None = None
    """When to look again."""

    @property
    def replace(self) -> bool:
        return self.phase == "Broken" and self.restart_at is not None


def health_of(group: Group, spec: LLMDeploymentSpec, places: Sequence[Place], now: float) -> Health:
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
    restarts = restarts_of(group, places)
    if known is None:
        if restarts >= recovery.max_group_restarts:
            return Health("Failed")
        restart_at = now + backoff(recovery, restarts)
        return Health("Broken" if restart_at <= now else "BackingOff", restart_at, counted=True, due_at=restart_at)
    return Health("Broken" if known <= now else "BackingOff", known, due_at=known)


def is_loading(group: Group, health: Health) -> bool:
    """Whether it is on its way to serve, or to serve again, and has the pods for it: not when it was given up."""
    return health.phase in ("Loading", "Recovering") and not group.pending


def broken_at(group: Group, spec: LLMDeploymentSpec) -> float | None:
    """When a group that is not ready counts as broken; None: not while it waits for room on a node, for a new one
    would wait as well."""
    if group.pending:
        return None
    if group.unready_since is not None:
        return group.unready_since + spec.recovery.deadline_seconds
    return group.started + spec.probes.startup_deadline_seconds + spec.recovery.deadline_seconds


def backoff(recovery: Recovery, restarts: int) -> float:
    if restarts == 0:
        return 0.0
    return min(float(recovery.backoff_max_seconds), recovery.backoff_seconds * 2.0 ** min(restarts - 1, 30))


def restarts_of(group: Group, places: Sequence[Place]) -> int:
    place = next((one for one in places if one.index == group.id.index), None)
    return place.restarts if place is not None and place.revision == group.id.revision else 0


def is_stable(group: Group, spec: LLMDeploymentSpec, now: float) -> bool:
    return group.available(now, spec.recovery.stable_after_seconds)


def _waiting_phase(group: Group) -> Phase:
    if group.has_served:
        return "Recovering"
    return "Pending" if group.pending else "Loading"
