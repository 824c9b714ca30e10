"""The observed state of one LLMDeployment as plain data: all that `plan` reads. controller/observe.py builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.build.rendering import Rendering
from gllm_operator.names import GroupId, Owner
from gllm_operator.objects import ObjectRef
from gllm_operator.spec.shared_model import SharedModel

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """An object with the operator's labels."""

    ref: ObjectRef
    uid: str
    fields_digest: str = ""
    """Digest of the fields that the operator owns by server-side apply. It changes when another manager takes one."""
    controlled: bool = True
    """Whether the LLMDeployment is its controller."""
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """The operator's last write of an object, and the object's state after it."""

    digest: str
    """Digest of the manifest."""
    uid: str
    fields_digest: str


CREATION, DELETION = "creation", "deletion"
"""Stand for the digest of an object that is only created, and of one that is deleted."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server's refusal to write or delete an object. It is tried again with growing waits."""

    digest: str
    """Digest of the manifest, or CREATION or DELETION."""
    message: str
    invalid: bool
    """Whether the object itself was found wrong (400, 422), and not the circumstances, such as a quota."""
    held: tuple[str, str]
    """(uid, fields_digest) of the object that was there; empty texts if there was none."""
    attempts: int
    retry_at: float
    """When to try again, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class ObservedSet:
    """A StatefulSet of a group."""

    group: GroupId
    role: str
    ref: ObjectRef
    uid: str
    replicas: int
    created: float
    terminating: bool = False
    failed_create: PodFailure | None = None
    """Why its controller could not create its last pod."""


CANNOT_START = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of waiting containers that do not start without help."""
FAILED_CREATE = "FailedCreate"
"""The reason if the StatefulSet controller may not create a pod."""
WAITS = CANNOT_START | {"Unschedulable", "SchedulingGated", FAILED_CREATE}
"""Reasons that hold only as long as a pod waits. Others, such as an exit, are history that stays true."""


@dataclass(frozen=True, slots=True)
class PodFailure:
    """The last failure of a pod's container, or the reason why the pod does not start."""

    time: float
    reason: str
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod of a group. Times are seconds since the epoch."""

    group: GroupId
    role: str
    rank: int
    """Node rank in the group; 0 is the master."""
    ref: ObjectRef
    uid: str
    created: float
    node: str = ""
    scheduled: bool = False
    ready: bool = False
    ready_since: float | None = None
    terminating: bool = False
    gone_by: float | None = None
    """Of a terminating pod: the time by which its grace period ends."""
    serving: str = ""
    """The value of the label gllm.dev/serving."""
    evicted: bool = False
    """Whether it terminates because it was evicted from its node, or preempted."""
    node_lost: bool = False
    """Whether it terminates because its node is lost; then no kubelet will confirm that its containers ended."""
    restarts: int = 0
    failure: PodFailure | None = None


@dataclass(frozen=True, slots=True)
class ObservedRevision:
    """A ControllerRevision."""

    revision: str
    number: int
    rendering: Rendering | None
    """None: a version of the operator wrote it that this one cannot read."""
    ref: ObjectRef
    uid: str


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """What a Gateway's controller says about the HTTPRoute: one of its conditions."""

    gateway: str
    type: str
    """Accepted or ResolvedRefs."""
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    owner: Owner
    generation: int = 1
    spec: LLMDeploymentSpec | None = None
    """None: the spec cannot be decoded; spec_error says why."""
    spec_error: str = ""
    restart: str = ""
    """Value of the annotation gllm.dev/restart."""
    status: LLMDeploymentStatus = field(default_factory=LLMDeploymentStatus)
    deleting_since: float | None = None
    orphaned: bool = False
    """Whether it is deleted with --cascade=orphan: its objects stay and serve."""
    has_finalizer: bool = True
    sets: tuple[ObservedSet, ...] = ()
    pods: tuple[ObservedPod, ...] = ()
    revisions: tuple[ObservedRevision, ...] = ()
    owned: Mapping[ObjectRef, OwnedObject] = field(default_factory=dict)
    """Objects of every kind except Pods; StatefulSets and ControllerRevisions are among them."""
    route_answers: tuple[RouteAnswer, ...] = ()
    applied: Mapping[ObjectRef, Applied] = field(default_factory=dict)
    refused: Mapping[ObjectRef, Refusal] = field(default_factory=dict)
    apis: frozenset[str] = frozenset()
    """The optional API groups that the cluster has."""
    keys_known: bool = True
    """Whether the Secret with the CURVE keys is known to exist."""
    fresh_keys: str = ""
    """New keys, for the case that the Secret has to be created. Randomness is an input of `plan`."""
    default_image: str = ""
    operator: str = ""
    """NAMESPACE/NAME of this operator."""
    managed_by: str = ""
    """NAMESPACE/NAME of the operator that has marked the LLMDeployment; empty: none."""
    model: ModelConfig | None = None
    """The model's config, if the operator can read it."""
    gateways_ready: int = 0
    """Ready gateway pods that serve it: its own, or with gateway.parent some of its parent's."""
    gateways_wanted: int = 0
    """Gateway pods that there should be."""
    gateways_current: bool = False
    """Whether all pods of the gateways' Deployment have its newest template and are ready."""
    leaving_nodes: Mapping[str, str] | None = None
    """Why each node is about to go, by its name; None: the operator may not watch nodes."""
    shared: tuple[SharedModel, ...] = ()
    """Further models of its gateways: those of deployments whose gateway.parent it is."""
    not_shared: str = ""
    """Why its parent's gateways do not serve it; empty: they do, or it has no parent."""
    gateways_idle: tuple[float | None, ...] = ()
    """Seconds without requests, 0 while there are any, of each gateway pod that was asked; None: no answer."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Running and waiting requests by the group's name, for masters that were asked and answered."""
    loaded: Mapping[str, float] = field(default_factory=dict)
    """Loaded share of the weights, 0 to 1, by the group's name, for masters that were asked and answered."""
