"""status.conditions: each with a reason for programs, and a message for people that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Condition, GroupStatus
from gllm_operator.objects import timestamp
from gllm_operator.plan.target import Target

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class ConditionInputs:
    spec: LLMDeploymentSpec | None
    problems: tuple[str, ...]
    rejected: bool
    """Whether the API server found the problems, not the operator."""
    obstacles: tuple[str, ...]
    """Objects that could not be written although the spec is valid."""
    target: Target
    update: str
    groups: tuple[GroupStatus, ...]
    replicas: int
    """Groups that the spec asks for."""
    ready: int
    available: int
    fewest: int
    """The number of groups that must be available."""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class _State:
    type: str
    status: Truth
    reason: str
    message: str


def conditions(
    inputs: ConditionInputs, before: Sequence[Condition], generation: int, now: float
) -> tuple[Condition, ...]:
    known = {one.type: one for one in before}
    result = []
    for state in _states(inputs):
        old = known.get(state.type)
        since = old.last_transition_time if old is not None and old.status == state.status else timestamp(now)
        result.append(
            Condition(
                type=state.type,
                status=state.status,
                reason=state.reason,
                message=state.message[:4096],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return tuple(result)


def headline(found: Iterable[Condition]) -> str:
    """The reason of the most important condition."""
    by_type = {one.type: one for one in found}
    for type, status in (
        ("SpecValid", "False"),
        ("Suspended", "True"),
        ("RolledBack", "True"),
        ("Degraded", "True"),
        ("Progressing", "False"),
    ):
        one = by_type.get(type)
        if one is not None and one.status == status and one.reason != "Complete":
            return one.reason
    if "Ready" in by_type and by_type["Ready"].status == "True":
        return "Ready"
    progressing = by_type.get("Progressing")
    return progressing.reason if progressing is not None else ""


def _states(inputs: ConditionInputs) -> list[_State]:
    states = [_ready(inputs), _available(inputs), _progressing(inputs), _degraded(inputs), _spec_valid(inputs)]
    loaded = inputs.ready > 0
    states.append(
        _State(
            "ModelLoaded",
            "True" if loaded else "False",
            "Loaded" if loaded else "NotLoaded",
            f"{inputs.ready} of {inputs.replicas} groups have the model loaded",
        )
    )
    suspended = inputs.spec is not None and inputs.spec.suspend
    if suspended:
        text = "spec.suspend is true, so there are no groups; set it to false to serve"
        states.append(_State("Suspended", "True", "Suspended", text))
    else:
        states.append(_State("Suspended", "False", "NotSuspended", ""))
    states.append(_rolled_back(inputs))
    return states


def _ready(inputs: ConditionInputs) -> _State:
    if inputs.deleting:
        return _State(
            "Ready",
            "False",
            "Deleting",
            "the LLMDeployment is being deleted; groups finish the requests they have accepted",
        )
    if inputs.replicas == 0:
        return _State(
            "Ready", "False", "NoGroups", "the spec asks for no groups (spec.replicas is 0, or spec.suspend is true)"
        )
    if inputs.ready >= inputs.replicas:
        return _State("Ready", "True", "AllGroupsReady", f"{inputs.ready} of {inputs.replicas} groups serve")
    worst = _worst(inputs.groups)
    text = f"{inputs.ready} of {inputs.replicas} groups serve"
    return _State("Ready", "False", "GroupsNotReady", f"{text}; {worst}" if worst else text)


def _available(inputs: ConditionInputs) -> _State:
    enough = inputs.available >= max(1, inputs.fewest)
    text = f"{inputs.available} groups are available; at least {max(1, inputs.fewest)} must be"
    return _State("Available", "True" if enough else "False", "EnoughGroups" if enough else "TooFewGroups", text)


def _progressing(inputs: ConditionInputs) -> _State:
    target, spec = inputs.target, inputs.spec
    if spec is not None and spec.rollout.paused and target.revision != inputs.update:
        return _State(
            "Progressing",
            "False",
            "Paused",
            "spec.rollout.paused is true, so a change waits; set it to false to roll it out",
        )
    if target.stalled:
        worst = _worst(inputs.groups)
        return _State(
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            f"revision {inputs.update} made no progress within rollout.progressDeadlineSeconds. It is not rolled back: "
            "rollout.rollbackOnFailure is false, or no earlier revision was complete; "
            f"{worst or 'see status.groups'}",
        )
    if target.rollout is None or not target.revision:
        return _State("Progressing", "False", "NothingToRollOut", "there is no valid revision to roll out")
    if target.rollout.complete:
        return _State("Progressing", "True", "Complete", f"all groups have revision {target.rollout.revision}")
    return _State("Progressing", "True", "RollingOut", f"revision {target.rollout.revision} is being rolled out")


def _degraded(inputs: ConditionInputs) -> _State:
    if inputs.obstacles:
        return _State("Degraded", "True", "CannotWrite", "; ".join(inputs.obstacles))
    failed = [group for group in inputs.groups if group.phase == "Failed"]
    if failed:
        return _State(
            "Degraded",
            "True",
            "GroupFailed",
            f"{_describe(failed[0])}; it is not replaced (recovery.policy, recovery.maxGroupRestarts). Look at its "
            "pods, then change the spec, or set the annotation gllm.dev/restart to try again",
        )
    for phase, reason in (("BackingOff", "GroupBroken"), ("Broken", "GroupBroken"), ("Recovering", "GroupRecovering")):
        found = [group for group in inputs.groups if group.phase == phase]
        if found:
            return _State("Degraded", "True", reason, _describe(found[0]))
    return _State("Degraded", "False", "AsExpected", "")


def _spec_valid(inputs: ConditionInputs) -> _State:
    if inputs.problems:
        reason = "Rejected" if inputs.rejected else "SpecInvalid"
        kept = "; the groups of the last valid spec keep running" if inputs.groups else ""
        return _State("SpecValid", "False", reason, "; ".join(inputs.problems) + kept)
    return _State("SpecValid", "True", "SpecValid", "")


def _rolled_back(inputs: ConditionInputs) -> _State:
    if not inputs.target.failed:
        return _State("RolledBack", "False", "NotRolledBack", "")
    return _State(
        "RolledBack",
        "True",
        "RolledBack",
        f"revision {inputs.target.failed} did not become available within rollout.progressDeadlineSeconds, or used up "
        f"recovery.maxGroupRestarts; {inputs.target.revision} serves. Fix the spec, or set the annotation "
        "gllm.dev/restart to try the same revision again",
    )


def _worst(groups: Sequence[GroupStatus]) -> str:
    order = ("Failed", "BackingOff", "Broken", "Recovering", "Pending", "Loading")
    waiting = [group for group in groups if group.phase in order]
    return _describe(min(waiting, key=lambda group: order.index(group.phase))) if waiting else ""


def _describe(group: GroupStatus) -> str:
    loaded = "" if group.load_percent is None else f", {group.load_percent}% of the weights loaded"
    text = f"group {group.name} is {group.phase} ({group.ready_ranks} pods ready{loaded})"
    if group.restart_at and group.phase == "BackingOff":
        text += f", it is replaced at {group.restart_at}"
    failure = group.last_failure
    if failure is not None:
        code = "" if failure.exit_code is None else f" (exit status {failure.exit_code})"
        where = f" on {failure.node}" if failure.node else ""
        lines = [line for line in failure.message.strip().splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:300]}" if lines else ""
        text += f"; rank {failure.rank}, pod {failure.pod}{where}: {failure.reason}{code}{last}"
    return text
