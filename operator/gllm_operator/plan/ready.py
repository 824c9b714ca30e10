"""Whether the deployment is as this generation of its spec asks, and if not, why: the conditions Ready, Progressing,
Reconciling and Stalled, and the word in the column REASON follow from one `Verdict`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import GroupStatus
from gllm_operator.plan.describe import describe, worst
from gllm_operator.plan.idle import NOT_IDLE, Idleness
from gllm_operator.plan.moves import STILL, Moves
from gllm_operator.plan.observed import RouteAnswer
from gllm_operator.plan.refusals import Obstacle
from gllm_operator.plan.target import Target

Course = Literal["done", "moving", "waiting", "stalled"]
"""done: nothing is left to do; moving: the operator works on it; waiting: it waits for the user; stalled: it needs the
user's help."""


SUSPENDED = "spec.suspend is true, so there are no groups; set it to false to serve"


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the conditions are made from."""

    spec: LLMDeploymentSpec | None
    problems: tuple[str, ...]
    rejected: bool
    """Whether the API server found the problems, not the operator."""
    obstacles: tuple[Obstacle, ...]
    missing: tuple[str, ...]
    """Sentences about objects whose API the cluster lacks."""
    unwritten: bool
    """Whether a change of the spec still has to be written."""
    target: Target
    update: str
    """The spec's revision; empty if the spec is invalid."""
    groups: tuple[GroupStatus, ...]
    replicas: int
    """Groups that the spec asks for."""
    ready: int
    """Groups that serve."""
    updated: int
    """Groups of the spec's revision that serve."""
    available: int
    fewest: int
    """The number of groups that must be available."""
    deleting: bool = False
    not_shared: str = ""
    """Why the gateways of gateway.parent do not serve it."""
    idle: Idleness = NOT_IDLE
    """Which groups are held back because the gateways have no requests."""
    moves: Moves = STILL
    """Groups that leave their nodes."""
    route: tuple[RouteAnswer, ...] | None = None
    """What Gateways say about the HTTPRoute; None if there is none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    reason: str
    message: str
    course: Course

    @property
    def ready(self) -> bool:
        return self.course == "done"


def verdict(facts: StatusFacts) -> Verdict:
    """The first of these that holds is what a user has to know first."""
    found = next((one for rule in _RULES if (one := rule(facts)) is not None), None)
    if found is not None:
        return replace(found, message=f"{found.message}; {facts.moves.message}") if facts.moves.message else found
    if facts.idle.idle:
        return Verdict(
            "Idle", "the gateways have no requests, so there are no groups; the next one starts the first", "done"
        )
    if facts.replicas == 0:
        return Verdict("NoGroups", "spec.replicas is 0, so nothing serves", "done")
    more = "; the others of spec.replicas start if requests go on" if facts.idle.waking else ""
    serve = f"{facts.ready} of {facts.replicas} groups serve{more}"
    if facts.moves.message:
        cause = worst(facts.groups)
        text = f"{serve}; {facts.moves.message}" + (f"; {cause}" if cause else "")
        return Verdict("EvictionsGoOn" if facts.moves.over else "GroupsMoving", text, "done")
    return Verdict("AllGroupsReady", serve, "done")


def rolled_back(target: Target) -> str:
    return (
        f"revision {target.failed} did not become available within rollout.progressDeadlineSeconds, or used up "
        f"recovery.maxGroupRestarts; {target.revision} serves. Fix the spec, or set the annotation "
        "gllm.dev/restart to try the same revision again"
    )


def _deleting(facts: StatusFacts) -> Verdict | None:
    if not facts.deleting:
        return None
    text = f"the LLMDeployment is being deleted; {len(facts.groups)} groups finish the requests they have accepted"
    return Verdict("Deleting", text, "moving")


def _invalid(facts: StatusFacts) -> Verdict | None:
    if not facts.problems:
        return None
    kept = f"; {facts.ready} groups of the last valid spec keep serving" if facts.ready else ""
    return Verdict("Rejected" if facts.rejected else "SpecInvalid", "; ".join(facts.problems) + kept, "stalled")


def _suspended(facts: StatusFacts) -> Verdict | None:
    if facts.spec is None or not facts.spec.suspend:
        return None
    return Verdict("Suspended", SUSPENDED, "done")


def _failed_groups(facts: StatusFacts) -> Verdict | None:
    failed = [group for group in facts.groups if group.phase == "Failed"]
    if failed:
        text = (
            f"{describe(failed[0])}; it is not replaced (recovery.policy, recovery.maxGroupRestarts). Look at its "
            "pods, then change the spec, or set the annotation gllm.dev/restart to try again"
        )
        return Verdict("GroupFailed", text, "stalled")
    broken = [group for group in facts.groups if group.phase in ("BackingOff", "Broken")]
    return Verdict("GroupBroken", describe(broken[0]), "moving") if broken else None


def _refused(facts: StatusFacts) -> Verdict | None:
    if not facts.obstacles:
        return None
    text = "; ".join(obstacle.message for obstacle in facts.obstacles)
    return Verdict(facts.obstacles[0].reason, f"the API server refuses {text}. The operator tries again", "moving")


def _changes_wait(facts: StatusFacts) -> Verdict | None:
    target, spec = facts.target, facts.spec
    if target.failed:
        return Verdict("RolledBack", rolled_back(target), "stalled")
    if spec is not None and spec.rollout.paused and target.revision != facts.update:
        text = "spec.rollout.paused is true, so a change waits; set it to false to roll it out"
        return Verdict("Paused", text, "waiting")
    if target.stalled:
        text = (
            f"revision {facts.update} made no progress within rollout.progressDeadlineSeconds. It is not rolled back: "
            "rollout.rollbackOnFailure is false, or no earlier revision was complete; "
            f"{worst(facts.groups) or 'see status.groups'}"
        )
        return Verdict("ProgressDeadlineExceeded", text, "stalled")
    return None


def _rollout(facts: StatusFacts) -> Verdict | None:
    rollout = facts.target.rollout
    if rollout is not None and rollout.complete and rollout.revision == facts.update:
        return None
    new = [group for group in facts.groups if group.revision == facts.update and group.phase != "Draining"]
    old = sum(group.revision != facts.update and group.phase == "Ready" for group in facts.groups)
    text = f"revision {facts.update} is being rolled out: {facts.updated} of {facts.replicas} groups have it and serve"
    if old:
        text += f", {old} of earlier revisions still serve"
    cause = worst(new) or worst(facts.groups)
    return Verdict("RollingOut", f"{text}; {cause}" if cause else text, "moving")


def _groups(facts: StatusFacts) -> Verdict | None:
    if facts.ready >= facts.replicas:
        return None
    recovering = any(group.phase == "Recovering" for group in facts.groups)
    text, cause = f"{facts.ready} of {facts.replicas} groups serve", worst(facts.groups)
    reason = "GroupRecovering" if recovering else "GroupsStarting"
    return Verdict(reason, f"{text}; {cause}" if cause else text, "moving")


def _unwritten(facts: StatusFacts) -> Verdict | None:
    return Verdict("Writing", "objects of the changed spec are being written", "moving") if facts.unwritten else None


_RULES = (_deleting, _invalid, _failed_groups, _refused, _suspended, _changes_wait, _rollout, _groups, _unwritten)
