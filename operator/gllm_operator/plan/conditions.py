"""status.conditions: each with a reason for programs, and a message for people that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gllm_operator.api.status import Condition
from gllm_operator.objects import timestamp
from gllm_operator.plan.describe import describe
from gllm_operator.plan.observed import RouteAnswer
from gllm_operator.plan.ready import SUSPENDED, StatusFacts, Verdict, rolled_back

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class _State:
    type: str
    status: Truth
    reason: str
    message: str


def conditions(
    facts: StatusFacts, verdict: Verdict, before: Sequence[Condition], generation: int, now: float
) -> tuple[Condition, ...]:
    known = {one.type: one for one in before}
    result = []
    for state in _states(facts, verdict):
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


def headline(facts: StatusFacts, verdict: Verdict) -> str:
    """The word in the column REASON."""
    if verdict.reason != "AllGroupsReady":
        return verdict.reason
    return _lacks(facts) or "Ready"


def _lacks(facts: StatusFacts) -> str:
    """The reason of the condition Integrated; empty if nothing is missing."""
    return "ApiMissing" if facts.missing else "NotShared" if facts.not_shared else ""


def _states(facts: StatusFacts, verdict: Verdict) -> list[_State]:
    loaded, suspended = facts.ready > 0, facts.spec is not None and facts.spec.suspend
    states = [
        _State("Ready", _truth(verdict.ready), verdict.reason, verdict.message),
        _available(facts),
        _progressing(facts, verdict),
        _degraded(facts, verdict),
        _spec_valid(facts, verdict),
        _State(
            "ModelLoaded",
            _truth(loaded),
            "Loaded" if loaded else "NotLoaded",
            f"{facts.ready} of {facts.replicas} groups have the model loaded",
        ),
        _when(suspended, "Suspended", "Suspended", SUSPENDED),
        _when(bool(facts.target.failed), "RolledBack", "RolledBack", rolled_back(facts.target)),
        # The two that kstatus knows, and with it Flux and `kpt live`.
        _when(verdict.course == "moving", "Reconciling", verdict.reason, verdict.message),
        _when(verdict.course == "stalled", "Stalled", verdict.reason, verdict.message),
    ]
    if facts.route is not None:
        states.append(_routed(facts.route))
    if lacks := _lacks(facts):
        not_shared = f"gateway.parent: {facts.not_shared}. Until then the groups serve clients themselves"
        sentences = [*facts.missing, *((not_shared,) if facts.not_shared else ())]
        states.append(_State("Integrated", "False", lacks, "; ".join(sentences)))
    return states


def _truth(holds: bool) -> Truth:
    return "True" if holds else "False"


def _when(holds: bool, type: str, reason: str, message: str) -> _State:
    return _State(type, "True", reason, message) if holds else _State(type, "False", f"Not{type}", "")


def _available(facts: StatusFacts) -> _State:
    fewest = max(1, facts.fewest)
    enough = facts.available >= fewest
    text = f"{facts.available} of {facts.replicas} groups are available; at least {fewest} must be"
    return _State("Available", _truth(enough), "EnoughGroups" if enough else "TooFewGroups", text)


def _progressing(facts: StatusFacts, verdict: Verdict) -> _State:
    if verdict.course == "stalled" or verdict.reason in ("Deleting", "Paused"):
        return _State("Progressing", "False", verdict.reason, verdict.message)
    rollout = facts.target.rollout
    if rollout is None or not facts.target.revision:
        return _State("Progressing", "False", "NothingToRollOut", "there is no valid revision to roll out")
    if rollout.complete and verdict.reason != "GroupsStarting":
        text = f"all {facts.replicas} groups have revision {rollout.revision}"
        return _State("Progressing", "True", "Complete", text)
    return _State("Progressing", "True", verdict.reason if rollout.complete else "RollingOut", verdict.message)


def _routed(answers: tuple[RouteAnswer, ...]) -> _State:
    """Whether the Gateways of spec.route serve it, in their own words."""
    refused = next((one for one in answers if one.status != "True"), None)
    if refused is not None:
        text = f"Gateway {refused.gateway} does not serve the route: {refused.message or refused.reason}"
        return _State("Routed", "False", refused.reason or refused.type, text)
    accepted = [one.gateway for one in answers if one.type == "Accepted"]
    if not accepted:
        return _State("Routed", "Unknown", "Pending", "no Gateway has answered yet; does the one of parentRefs exist?")
    return _State("Routed", "True", "Accepted", f"served by {', '.join(sorted(set(accepted)))}")


def _degraded(facts: StatusFacts, verdict: Verdict) -> _State:
    if facts.obstacles:
        text = "; ".join(obstacle.message for obstacle in facts.obstacles)
        return _State("Degraded", "True", facts.obstacles[0].reason, text)
    if verdict.reason in ("GroupFailed", "GroupBroken"):
        return _State("Degraded", "True", verdict.reason, verdict.message)
    recovering = [group for group in facts.groups if group.phase == "Recovering"]
    if recovering:
        return _State("Degraded", "True", "GroupRecovering", describe(recovering[0]))
    return _State("Degraded", "False", "AsExpected", "")


def _spec_valid(facts: StatusFacts, verdict: Verdict) -> _State:
    if not facts.problems:
        return _State("SpecValid", "True", "SpecValid", "")
    text = verdict.message if verdict.course == "stalled" else "; ".join(facts.problems)
    return _State("SpecValid", "False", "Rejected" if facts.rejected else "SpecInvalid", text)
