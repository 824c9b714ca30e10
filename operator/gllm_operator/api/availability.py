"""spec.rollout, spec.recovery, spec.disruption: how groups are changed, healed and protected."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from gllm_operator.api.types import ApiObject, Rule

Groups = Annotated[int, Meta(ge=0, le=256)]


class Rollout(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.maxSurge > 0 || self.maxUnavailable > 0",
            "rollout.maxSurge and rollout.maxUnavailable are both 0, so nothing could ever change: raise one of them "
            "(maxUnavailable if there are no accelerators for one more group)",
        ),
        Rule(
            "self.progressDeadlineSeconds > self.minReadySeconds",
            "rollout.progressDeadlineSeconds must be more than rollout.minReadySeconds",
        ),
    )

    max_surge: Groups = 1
    """Groups beyond replicas that may exist while a change is rolled out; draining ones count, for they hold GPUs."""
    max_unavailable: Groups = 0
    """Groups fewer than replicas that may be available while a change is rolled out."""
    paused: bool = False
    """Changes wait; scaling and recovery go on."""
    min_ready_seconds: Annotated[int, Meta(ge=0, le=3600)] = 0
    """How long a group must be ready before it counts as available."""
    drain_timeout_seconds: Annotated[int, Meta(ge=0, le=86400)] = 600
    """How long a group that is to go may take for the requests it has accepted."""
    progress_deadline_seconds: Annotated[int, Meta(ge=10, le=172800)] = 2400
    """How long a rollout may go on without progress before it counts as failed."""
    rollback_on_failure: bool = True
    """Whether a failed rollout goes back to the last revision that was complete."""
    revision_history_limit: Annotated[int, Meta(ge=1, le=50)] = 5
    """Old revisions that are kept as ControllerRevisions."""


class Recovery(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.backoffSeconds <= self.backoffMaxSeconds",
            "recovery.backoffSeconds must not be more than recovery.backoffMaxSeconds",
        ),
    )

    policy: Literal["RecreateGroup", "None"] = "RecreateGroup"
    """What to do with a group that does not heal by itself (its supervisor restarts lost workers, its StatefulSets lost
    pods): make a new one with new pods in its place, or leave it for you to look at."""
    deadline_seconds: Annotated[int, Meta(ge=10, le=86400)] = 600
    """How long a group that was ready may be without being ready before it counts as broken."""
    max_group_restarts: Annotated[int, Meta(ge=0, le=1000)] = 5
    """New groups in one place before it counts as failed and is left as it is, until the spec changes."""
    backoff_seconds: Annotated[int, Meta(ge=0, le=86400)] = 30
    """Wait before the second restart; doubles with each one that follows. The first is at once."""
    backoff_max_seconds: Annotated[int, Meta(ge=0, le=86400)] = 600
    """Longest wait before a restart."""
    stable_after_seconds: Annotated[int, Meta(ge=0, le=86400)] = 600
    """How long a group must be ready for its restarts to be forgotten."""
    node_loss_seconds: Annotated[int, Meta(ge=0, le=3600)] = 20
    """How long a node may be lost before its pods are given up (their toleration for not-ready and unreachable)."""
    lost_pods: Literal["Replace", "Keep"] = "Replace"
    """Replace: a pod that is given up with its node is removed at once, so that its StatefulSet makes another and the
    group heals with its requests. That is safe: a rank proves itself to its master when it joins, and one that was
    given up is refused. Keep: it stays until its node is back or removed; the whole group is replaced after
    recovery.deadlineSeconds."""


class Disruption(ApiObject, frozen=True, kw_only=True):
    max_unavailable_groups: Groups = 1
    """Groups that evictions (drained nodes) may take away at once; 0 blocks them."""
