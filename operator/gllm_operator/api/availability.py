"""spec.rollout, spec.recovery, spec.disruption: how groups are changed, recovered and protected from evictions."""

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
    """The maximum number of groups beyond spec.replicas during a change. Draining groups count, because they hold their
    accelerators."""
    max_unavailable: Groups = 0
    """The maximum number of groups below spec.replicas that may be unavailable during a change."""
    paused: bool = False
    """Whether changes of the pods wait. Scaling and recovery continue."""
    min_ready_seconds: Annotated[int, Meta(ge=0, le=3600)] = 0
    """Seconds that a group must be ready before it counts as available."""
    drain_timeout_seconds: Annotated[int, Meta(ge=0, le=86400)] = 600
    """Seconds that a draining group may take to finish the requests it has accepted."""
    progress_deadline_seconds: Annotated[int, Meta(ge=10, le=172800)] = 2400
    """Seconds without progress after which a rollout counts as failed."""
    rollback_on_failure: bool = True
    """Whether a failed rollout returns to the last complete revision."""
    revision_history_limit: Annotated[int, Meta(ge=1, le=50)] = 5
    """The number of unused revisions to keep as ControllerRevisions."""


class Recovery(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.backoffSeconds <= self.backoffMaxSeconds",
            "recovery.backoffSeconds must not be more than recovery.backoffMaxSeconds",
        ),
    )

    policy: Literal["RecreateGroup", "None"] = "RecreateGroup"
    """What happens to a group that does not heal by itself. (Its supervisor restarts lost workers, and its StatefulSets
    replace lost pods.) RecreateGroup replaces it by a new group; None leaves it for inspection."""
    deadline_seconds: Annotated[int, Meta(ge=10, le=86400)] = 600
    """Seconds that a group may be unready, after it was ready, before it counts as broken."""
    max_group_restarts: Annotated[int, Meta(ge=0, le=1000)] = 5
    """The number of times that a broken group is replaced before its ordinal counts as failed. A failed group is not
    replaced until the spec changes."""
    backoff_seconds: Annotated[int, Meta(ge=0, le=86400)] = 30
    """Seconds to wait before the second replacement. The wait doubles with each further one; the first has none."""
    backoff_max_seconds: Annotated[int, Meta(ge=0, le=86400)] = 600
    """The maximum number of seconds to wait before a replacement."""
    stable_after_seconds: Annotated[int, Meta(ge=0, le=86400)] = 600
    """Seconds that a group must be ready before its count of replacements returns to zero."""
    node_loss_seconds: Annotated[int, Meta(ge=0, le=3600)] = 20
    """Seconds that a node may be not ready or unreachable before its pods are evicted. Sets the pods' tolerations of
    these taints."""
    lost_pods: Literal["Replace", "Keep"] = "Replace"
    """What happens to a pod that is evicted from a lost node. Replace deletes it at once, so that its StatefulSet
    creates another and the group recovers with its requests. This is safe: a rank authenticates to its master when
    it joins, and the master refuses a rank that it has replaced. Keep leaves the pod until its node returns or is
    removed; the group is replaced after recovery.deadlineSeconds."""


class Disruption(ApiObject, frozen=True, kw_only=True):
    max_unavailable_groups: Groups = 1
    """The number of groups that evictions may make unavailable at once where no new group can be started first. So many
    pods may go at a time, and the next when they are ready again. 0: such evictions wait."""
    wait_for_room_seconds: Annotated[int, Meta(ge=0, le=86400)] = 120
    """When a node is drained, a new group starts elsewhere before its groups drain, and their evictions wait. They stop
    waiting if a new group is not scheduled within so many seconds, or not ready within rollout.progressDeadlineSeconds.
    More time helps where an autoscaler adds nodes. 0, as rollout.maxSurge 0: evictions never wait."""
