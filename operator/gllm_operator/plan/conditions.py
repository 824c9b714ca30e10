"""Conditions: what holds, in one word for programs, and for people with what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Condition, GroupStatus
from gllm_operator.clock import stamp
from gllm_operator.plan.target import Target

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions are made from."""

    spec: LLMDeploymentSpec | None
    problems: tuple[str, ...]
    rejected: bool
    """The problems are the API server's."""
    obstacles: tuple[str, ...]
    """Objects that could not be written, which is not the spec's fault."""
    target: Target
    update: str
    groups: tuple[GroupStatus, ...]
    wanted: int
    ready: int
    available: int
    fewest: int
    """Groups that have to be available."""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    type: str
    status: Truth
    reason: str
    message: str


def conditions(facts: Facts, before: Sequence[Condition], generation: int, now: float) -> tuple[Condition, ...]:
    known = {one.type: one for one in before}
    result = []
    for claim in _claims(facts):
        old = known.get(claim.type)
        since = old.last_transition_time if old is not None and old.status == claim.status else stamp(now)
        result.append(
            Condition(
                type=claim.type,
                status=claim.status,
                reason=claim.reason,
                message=claim.message[:4096],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return tuple(result)


def headline(found: Iterable[Condition]) -> str:
    """Reason of the condition that matters most."""
    by_type = {one.type: one for one in found}
    for type, status in (("SpecValid", "False"), ("Suspended", "True"), ("RolledBack", "True"), ("Degraded", "True"),
                         ("Progressing", "False")):  # fmt: skip
        one = by_type.get(type)
        if one is not None and one.status == status and one.reason not in ("Complete",):
            return one.reason
    if "Ready" in by_type and by_type["Ready"].status == "True":
        return "Ready"
    progressing = by_type.get("Progressing")
    return progressing.reason if progressing is not None else ""


def _claims(facts: Facts) -> list[Claim]:
    claims = [_ready(facts), _available(facts), _progressing(facts), _degraded(facts), _spec_valid(facts)]
    loaded = facts.ready > 0
    claims.append(
        Claim("ModelLoaded", "True" if loaded else "False", "Loaded" if loaded else "NotLoaded",
              f"{facts.ready} of {facts.wanted} groups have the model loaded")
    )  # fmt: skip
    suspended = facts.spec is not None and facts.spec.suspend
    claims.append(
        Claim("Suspended", "True", "Suspended", "spec.suspend is true: there are no groups; set it to false to serve")
        if suspended
        else Claim("Suspended", "False", "NotSuspended", "")
    )
    claims.append(_rolled_back(facts))
    return claims


def _ready(facts: Facts) -> Claim:
    if facts.deleting:
        return Claim("Ready", "False", "Deleting", "it is being deleted: groups finish the requests they have accepted")
    if facts.wanted == 0:
        return Claim("Ready", "False", "NoGroups", "no groups are wanted (spec.replicas 0, or spec.suspend)")
    if facts.ready >= facts.wanted:
        return Claim("Ready", "True", "AllGroupsReady", f"{facts.ready} of {facts.wanted} groups serve")
    worst = _worst(facts.groups)
    text = f"{facts.ready} of {facts.wanted} groups serve"
    return Claim("Ready", "False", "GroupsNotReady", f"{text}; {worst}" if worst else text)


def _available(facts: Facts) -> Claim:
    enough = facts.available >= max(1, facts.fewest)
    text = f"{facts.available} groups are available, at least {max(1, facts.fewest)} have to be"
    return Claim("Available", "True" if enough else "False", "EnoughGroups" if enough else "TooFewGroups", text)


def _progressing(facts: Facts) -> Claim:
    target, spec = facts.target, facts.spec
    if spec is not None and spec.rollout.paused and target.revision != facts.update:
        return Claim("Progressing", "False", "Paused", "spec.rollout.paused holds a change back: set it to false")
    if target.stalled:
        worst = _worst(facts.groups)
        return Claim(
            "Progressing", "False", "ProgressDeadlineExceeded",
            f"revision {facts.update} made no progress within rollout.progressDeadlineSeconds, and there is no earlier "
            f"one to go back to; {worst or 'see status.groups'}",
        )  # fmt: skip
    if target.rollout is None or not target.revision:
        return Claim("Progressing", "False", "NothingToRollOut", "there is no revision that could be rolled out")
    if target.rollout.complete:
        return Claim("Progressing", "True", "Complete", f"all groups are of revision {target.rollout.revision}")
    return Claim("Progressing", "True", "RollingOut", f"revision {target.rollout.revision} is being rolled out")


def _degraded(facts: Facts) -> Claim:
    if facts.obstacles:
        return Claim("Degraded", "True", "CannotWrite", "; ".join(facts.obstacles))
    failed = [group for group in facts.groups if group.phase == "Failed"]
    if failed:
        return Claim(
            "Degraded", "True", "GroupFailed",
            f"{_describe(failed[0])}; it is left as it is (recovery.policy, recovery.maxGroupRestarts): look at its "
            "pods, then change the spec or set the annotation gllm.dev/restart to try anew",
        )  # fmt: skip
    for phase, reason in (("BackingOff", "GroupBroken"), ("Broken", "GroupBroken"), ("Recovering", "GroupRecovering")):
        found = [group for group in facts.groups if group.phase == phase]
        if found:
            return Claim("Degraded", "True", reason, _describe(found[0]))
    return Claim("Degraded", "False", "AsExpected", "")


def _spec_valid(facts: Facts) -> Claim:
    if facts.problems:
        reason = "Rejected" if facts.rejected else "SpecInvalid"
        kept = "; groups of the last good spec are kept" if facts.groups else ""
        return Claim("SpecValid", "False", reason, "; ".join(facts.problems) + kept)
    return Claim("SpecValid", "True", "SpecValid", "")


def _rolled_back(facts: Facts) -> Claim:
    if not facts.target.failed:
        return Claim("RolledBack", "False", "NotRolledBack", "")
    return Claim(
        "RolledBack", "True", "RolledBack",
        f"revision {facts.target.failed} did not become available within rollout.progressDeadlineSeconds, or used up "
        f"recovery.maxGroupRestarts; {facts.target.revision} serves. Fix the spec, or set the annotation "
        "gllm.dev/restart to try the same again",
    )  # fmt: skip


def _worst(groups: Sequence[GroupStatus]) -> str:
    order = ("Failed", "BackingOff", "Broken", "Recovering", "Pending", "Loading")
    waiting = [group for group in groups if group.phase in order]
    return _describe(min(waiting, key=lambda group: order.index(group.phase))) if waiting else ""


def _describe(group: GroupStatus) -> str:
    loaded = "" if group.load_percent is None else f", {group.load_percent}% of the weights loaded"
    text = f"group {group.name} is {group.phase} ({group.ready_ranks} pods ready{loaded})"
    if group.restart_at and group.phase == "BackingOff":
        text += f", a new one is made at {group.restart_at}"
    failure = group.last_failure
    if failure is not None:
        code = "" if failure.exit_code is None else f" (exit status {failure.exit_code})"
        where = f" on {failure.node}" if failure.node else ""
        lines = [line for line in failure.message.strip().splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:300]}" if lines else ""
        text += f"; rank {failure.rank}, pod {failure.pod}{where}: {failure.reason}{code}{last}"
    return text
