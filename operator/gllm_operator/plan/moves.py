"""Nodes that are about to go: a group on one of them drains when a new group serves elsewhere.

Meanwhile the PodDisruptionBudget lets no pod go. So that no drain waits for ever, it opens when the new group is not
scheduled or not ready in time. Then evictions take groups first, and their replacements start afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.objects import seconds_of
from gllm_operator.plan.groups import Group
from gllm_operator.plan.health import Health
from gllm_operator.plan.observed import Observed
from gllm_operator.plan.target import Target


@dataclass(frozen=True, slots=True)
class Moves:
    evictions: int
    """Pods that may be unavailable at once, for the PodDisruptionBudget."""
    groups: frozenset[str] = frozenset()
    """Names of the groups that leave their nodes."""
    message: str = ""
    """What the status says about them; empty if no group moves."""
    over: bool = False
    """Whether evictions no longer wait for new groups."""
    due_at: float | None = None
    """When the budget has to be computed again, in seconds since the epoch."""


STILL = Moves(0)


@dataclass(frozen=True, slots=True)
class _Wait:
    """Something that keeps a move from its end."""

    until: float
    """When the move gives up because of it."""
    why: str


def find_moves(
    observed: Observed,
    spec: LLMDeploymentSpec,
    groups: Sequence[Group],
    health: Mapping[str, Health],
    target: Target,
    now: float,
) -> Moves:
    disruption, nodes = spec.disruption, observed.leaving_nodes
    if nodes is None or disruption.wait_for_room_seconds == 0 or spec.rollout.max_surge == 0:
        return Moves(disruption.max_unavailable_groups)
    live = [group for group in groups if not (group.draining or group.evicted or health[group.name].replace)]
    moving = [(group, node) for group in live if (node := _leaves(group, nodes))]
    if not moving:
        return STILL
    waits = _waits(observed, spec, live, health, target, now)
    over = next((wait for wait in waits if wait.until <= now), None)
    text = f"group {moving[0][0].name} moves off the node {moving[0][1]} ({nodes[moving[0][1]]})"
    text += f", as do {len(moving) - 1} more" if len(moving) > 1 else ""
    names = frozenset(group.name for group, _ in moving)
    if over is None:
        new = next((group for group in live if group.name not in names and not group.ready), None)
        text += (
            f": it drains when group {new.name} serves"
            if new
            else ": a new group starts first, within rollout.maxSurge"
        )
        return Moves(0, names, text, due_at=min((wait.until for wait in waits), default=None))
    text += f", but {over.why}; evictions"
    if disruption.max_unavailable_groups == 0:
        return Moves(0, names, f"{text} wait, as disruption.maxUnavailableGroups is 0")
    # Pods of new groups are no reason to keep the old ones.
    evictions = disruption.max_unavailable_groups + sum(_unready(group) for group in live if not group.has_served)
    return Moves(evictions, names, f"{text} no longer wait for a new group", over=True)


def _leaves(group: Group, nodes: Mapping[str, str]) -> str:
    """The first node that is about to go and has a pod of the group; empty if there is none."""
    return next((pod.node for pod in group.pods if pod.node in nodes and not pod.terminating), "")


def _waits(
    observed: Observed,
    spec: LLMDeploymentSpec,
    live: Sequence[Group],
    health: Mapping[str, Health],
    target: Target,
    now: float,
) -> list[_Wait]:
    """While all groups are available, a move makes progress: a new group is created, or the old one drains. So only
    groups that are not, or cannot be created, can keep it from its end."""
    room, ready = spec.disruption.wait_for_room_seconds, spec.rollout.progress_deadline_seconds
    unscheduled = f"is not scheduled within {room} s (disruption.waitForRoomSeconds)"
    waits = []
    if not target.revision or target.stalled:
        waits.append(_Wait(now, "the spec has no revision that can be rolled out"))
    for group in live:
        if group.available(now, spec.rollout.min_ready_seconds):
            continue
        since, name = group.started if group.unready_since is None else group.unready_since, f"group {group.name}"
        if health[group.name].phase in ("Failed", "BackingOff"):
            waits.append(_Wait(now, f"{name} is {health[group.name].phase}"))
        if group.pending:
            waits.append(_Wait(since + room, f"{name} {unscheduled}"))
        waits.append(_Wait(since + ready, f"{name} is not ready within {ready} s (rollout.progressDeadlineSeconds)"))
    known = {group.name for group in live}
    for entry in observed.status.groups:
        started = seconds_of(entry.started_at)
        if entry.phase == "Pending" and entry.name not in known and started is not None:
            waits.append(_Wait(started + room, f"group {entry.name} cannot be created"))
    return waits


def _unready(group: Group) -> int:
    """Pods that a PodDisruptionBudget expects and does not find ready: those of sets that have any pod."""
    missing = 0
    for one in group.sets:
        own = [pod for pod in group.pods if pod.role == one.role]
        missing += one.replicas - sum(pod.ready and not pod.terminating for pod in own) if own else 0
    return missing
