"""Which revision the groups are to be of: the spec's, or, while that must not be, the last that was complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import LLMDeploymentStatus, RolloutStatus
from gllm_operator.clock import seconds_of, stamp
from gllm_operator.plan.groups import Group


@dataclass(frozen=True, slots=True)
class Target:
    revision: str
    """Empty: none, so nothing new is made."""
    failed: str
    """The spec's revision, if it was given up."""
    rollout: RolloutStatus | None
    stalled: bool = False
    """The deadline has passed, and there is nothing to go back to (or nobody wants to)."""
    deadline: float | None = None
    """When the rollout at hand counts as failed."""


def choose_target(
    spec: LLMDeploymentSpec,
    update: str,
    known: frozenset[str],
    status: LLMDeploymentStatus,
    groups: Sequence[Group],
    failed_groups: frozenset[str],
    now: float,
) -> Target:
    """update: the spec's revision, empty if the spec cannot work. known: revisions that can be rendered.
    failed_groups: names of groups whose restarts are used up."""
    current = status.current_revision if status.current_revision in known else ""
    if not update:
        return Target(current, "", status.rollout)
    failed = update if status.failed_revision == update and current not in ("", update) else ""
    if spec.rollout.paused and current != update:
        return Target(current, failed, status.rollout)
    if failed:
        return Target(current, failed, _rollout(spec, current, status, groups, now))
    rollout = _rollout(spec, update, status, groups, now)
    if rollout.complete:
        return Target(update, "", rollout)
    deadline = (seconds_of(rollout.progressed_at) or now) + spec.rollout.progress_deadline_seconds
    hopeless = any(group.id.revision == update and group.name in failed_groups for group in groups)
    if now < deadline and not hopeless:
        return Target(update, "", rollout, deadline=deadline)
    if spec.rollout.rollback_on_failure and current and current != update:
        return Target(current, update, _rollout(spec, current, status, groups, now))
    return Target(update, "", rollout, stalled=True)


def _rollout(
    spec: LLMDeploymentSpec, revision: str, status: LLMDeploymentStatus, groups: Sequence[Group], now: float
) -> RolloutStatus:
    before = status.rollout
    score = _score(spec, revision, groups, now)
    if before is None or before.revision != revision:
        return RolloutStatus(
            revision=revision, progressed_at=stamp(now), score=score, complete=is_complete(spec, revision, groups, now)
        )
    if before.complete:
        return before
    was_paused = any(one.type == "Progressing" and one.reason == "Paused" for one in status.conditions)
    complete = is_complete(spec, revision, groups, now)
    if score > before.score or was_paused or complete:
        return RolloutStatus(
            revision=revision, progressed_at=stamp(now), score=max(score, before.score), complete=complete
        )
    return before


def is_complete(spec: LLMDeploymentSpec, revision: str, groups: Sequence[Group], now: float) -> bool:
    """All groups that are wanted are of this revision and available, and there are no others."""
    live = [group for group in groups if not group.draining]
    wanted = 0 if spec.suspend else spec.replicas
    available = [group for group in live if group.id.revision == revision
                 and group.available(now, spec.rollout.min_ready_seconds)]  # fmt: skip
    return len(available) >= wanted and all(group.id.revision == revision for group in live)


def _score(spec: LLMDeploymentSpec, revision: str, groups: Sequence[Group], now: float) -> int:
    """Grows with each step of a rollout: pods placed, pods ready, groups available, old groups gone."""
    score = 600
    for group in groups:
        if group.id.revision != revision:
            score -= not group.draining
        elif not group.draining:
            score += sum(pod.scheduled for pod in group.pods) + 10 * group.ready_pods
            score += 10_000 * group.available(now, spec.rollout.min_ready_seconds)
    return score
