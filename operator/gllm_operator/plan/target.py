"""The revision that groups should have: the spec's, or the last complete one if that one failed or must wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import LLMDeploymentStatus, RolloutStatus
from gllm_operator.objects import seconds_of, timestamp
from gllm_operator.plan.groups import Group


@dataclass(frozen=True, slots=True)
class Target:
    revision: str
    """Empty: no group is created."""
    failed: str
    """The spec's revision, if its rollout failed."""
    rollout: RolloutStatus | None
    stalled: bool = False
    """Whether the deadline has passed without a rollback: no earlier revision exists, or rollbackOnFailure is false."""
    deadline: float | None = None
    """When the current rollout counts as failed, in seconds since the epoch."""


def choose_target(
    spec: LLMDeploymentSpec,
    update: str,
    known: frozenset[str],
    status: LLMDeploymentStatus,
    groups: Sequence[Group],
    failed_groups: frozenset[str],
    now: float,
) -> Target:
    """update: the spec's revision, empty if the spec is invalid. known: revisions whose pods can be rendered.
    failed_groups: names of groups that have used up their restarts."""
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
    exhausted = any(group.id.revision == update and group.name in failed_groups for group in groups)
    if now < deadline and not exhausted:
        return Target(update, "", rollout, deadline=deadline)
    if spec.rollout.rollback_on_failure and current and current != update:
        return Target(current, update, _rollout(spec, current, status, groups, now))
    return Target(update, "", rollout, stalled=True)


def current_revision(target: Target, before: LLMDeploymentStatus) -> str:
    """The last revision that all groups had."""
    rollout = target.rollout
    done = rollout is not None and rollout.complete and rollout.revision == target.revision
    return target.revision if done else before.current_revision


def _rollout(
    spec: LLMDeploymentSpec, revision: str, status: LLMDeploymentStatus, groups: Sequence[Group], now: float
) -> RolloutStatus:
    before = status.rollout
    score = _score(spec, revision, groups, now)
    if before is None or before.revision != revision:
        return RolloutStatus(
            revision=revision,
            progressed_at=timestamp(now),
            score=score,
            complete=is_complete(spec, revision, groups, now),
        )
    if before.complete:
        return before
    was_paused = any(one.type == "Progressing" and one.reason == "Paused" for one in status.conditions)
    complete = is_complete(spec, revision, groups, now)
    if score > before.score or was_paused or complete:
        return RolloutStatus(
            revision=revision, progressed_at=timestamp(now), score=max(score, before.score), complete=complete
        )
    return before


def is_complete(spec: LLMDeploymentSpec, revision: str, groups: Sequence[Group], now: float) -> bool:
    """Whether enough groups of this revision are available, and every group that is not draining has it."""
    live = [group for group in groups if not group.draining]
    min_ready = spec.rollout.min_ready_seconds
    available = [group for group in live if group.id.revision == revision and group.available(now, min_ready)]
    return len(available) >= spec.effective_replicas and all(group.id.revision == revision for group in live)


def _score(spec: LLMDeploymentSpec, revision: str, groups: Sequence[Group], now: float) -> int:
    """A number that grows with a rollout's progress: pods scheduled and ready, groups available, old groups gone."""
    score = 600
    for group in groups:
        if group.id.revision != revision:
            score -= not group.draining
        elif not group.draining:
            score += sum(pod.scheduled for pod in group.pods) + 10 * group.ready_pods
            score += 10_000 * group.available(now, spec.rollout.min_ready_seconds)
    return score
