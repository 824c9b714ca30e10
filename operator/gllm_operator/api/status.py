"""The status of an LLMDeployment."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gllm_operator.api.types import ApiObject

Phase = Literal["Pending", "Loading", "Ready", "Recovering", "Draining", "Broken", "BackingOff", "Failed"]


class Condition(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    type: Annotated[str, Meta(max_length=316)]
    """The type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition is true."""
    reason: Annotated[str, Meta(max_length=1024)]
    """A word for the reason of the status, for programs."""
    message: Annotated[str, Meta(max_length=32768)]
    """The details, and what to do, for people."""
    last_transition_time: Annotated[str, Meta(max_length=32)]
    """When the status last changed."""
    observed_generation: int
    """The metadata.generation for which the condition was computed."""


class Failure(ApiObject, frozen=True, kw_only=True):
    time: Annotated[str, Meta(max_length=32)]
    """When the failure happened."""
    rank: int
    """The node rank of the pod in its group; 0 is the master."""
    pod: Annotated[str, Meta(max_length=253)]
    """The name of the pod."""
    node: Annotated[str, Meta(max_length=253)] = ""
    """The node of the pod."""
    reason: Annotated[str, Meta(max_length=256)]
    """A word for the reason."""
    exit_code: int | None = None
    """The exit code of the container, if it ended."""
    message: Annotated[str, Meta(max_length=1024)] = ""
    """The last lines of the container's log, or the message of the kubelet or the scheduler."""


class GroupStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    name: Annotated[str, Meta(max_length=64)]
    """The name of the group. Its StatefulSets are NAME-m and NAME-s."""
    index: int
    """The ordinal of the group, from 0 to replicas - 1."""
    revision: Annotated[str, Meta(max_length=16)]
    """The revision of the group's pods."""
    instance: int
    """A number that grows with every group of the ordinal, so that no name is used twice (999 is followed by 1)."""
    phase: Phase
    """The phase of the group. It is informational. For Broken, BackingOff and Failed, lastFailure has the cause."""
    ready_ranks: Annotated[str, Meta(max_length=16)]
    """The number of ready pods and of all pods, such as 1/2."""
    load_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    """The loaded share of the weights in percent while the group loads; null if it is unknown."""
    restarts: int = 0
    """How often broken groups with this ordinal were replaced since one was last stable."""
    container_restarts: int = 0
    """The number of container restarts in the group's pods."""
    in_flight: int | None = None
    """The number of unfinished requests while the group drains; null if it is unknown."""
    started_at: Annotated[str, Meta(max_length=32)] | None = None
    """When the first pod of the group was created."""
    ready_at: Annotated[str, Meta(max_length=32)] | None = None
    """When the group last became ready."""
    unready_at: Annotated[str, Meta(max_length=32)] | None = None
    """When the group stopped being ready; null while it is ready."""
    restart_at: Annotated[str, Meta(max_length=32)] | None = None
    """When the broken group will be replaced."""
    last_failure: Failure | None = None
    """The last failure of one of the group's pods."""


class Endpoint(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    url: Annotated[str, Meta(max_length=512)]
    """The base URL of the OpenAI API within the cluster."""
    models: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=256)] = ()
    """The names of the models in requests."""


class ParallelismStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    summary: Annotated[str, Meta(max_length=64)]
    """A summary such as PP4xTP8xEP8."""
    world_size: int
    """The number of ranks of a group."""
    pods_per_group: int
    """The number of pods of a group."""
    accelerators: int
    """The number of accelerators of all groups that the spec asks for."""


class Estimate(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    fits: Annotated[str, Meta(max_length=16)]
    """Whether the model fits into memory: Yes, No or Unknown."""
    weights_per_rank: int | None = None
    """The size of the weights on the rank that has the most, in bytes."""
    kv_tokens: int | None = None
    """The number of tokens that fit into a group's KV cache."""
    message: Annotated[str, Meta(max_length=1024)] = ""
    """The figures behind the estimate, or why there is none."""


class RolloutStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    revision: Annotated[str, Meta(max_length=16)]
    """The revision that is rolled out."""
    progressed_at: Annotated[str, Meta(max_length=32)]
    """When the rollout last made progress."""
    score: int = 0
    """A number that grows with the progress of the rollout."""
    complete: bool = False
    """Whether all groups have this revision and are available."""


class OrdinalStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    index: int
    """The ordinal."""
    revision: Annotated[str, Meta(max_length=16)]
    """The revision of the last group with this ordinal."""
    instance: int
    """The instance number of the last group with this ordinal. The next one gets a higher number, so that names are not
    reused."""
    restarts: int = 0
    """How often broken groups of this revision were replaced since one was last stable."""
    seen: bool = False
    """Whether that group was seen in the cluster. One that could not be written is tried again under its name."""


class LLMDeploymentStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=False):
    observed_generation: int = 0
    """The metadata.generation for which the status was computed."""
    replicas: int = 0
    """The number of groups that are not draining."""
    ready_replicas: int = 0
    """The number of groups that serve."""
    updated_replicas: int = 0
    """The number of groups of the update revision that serve."""
    available_replicas: int = 0
    """The number of groups that have been ready for rollout.minReadySeconds."""
    unavailable_replicas: int = 0
    """The number of groups that the spec asks for and that are not available."""
    ready: Annotated[str, Meta(max_length=16)] = "0/0"
    """The number of ready groups and of groups that the spec asks for, such as 1/2."""
    gateways: Annotated[str, Meta(max_length=16)] = ""
    """The number of ready gateway pods and of those that spec.gateway asks for, such as 1/2."""
    idle: bool = False
    """Whether there are no groups because the gateways have no requests (gateway.idleSeconds)."""
    waking: bool = False
    """Whether only the first group after an idle time has been started; the others follow if requests go on."""
    selector: Annotated[str, Meta(max_length=256)] = ""
    """The label selector of the master pods; each group has one. Autoscalers use it."""
    current_revision: Annotated[str, Meta(max_length=16)] = ""
    """The last revision that all groups had. A failed rollout returns to it."""
    update_revision: Annotated[str, Meta(max_length=16)] = ""
    """The revision of the spec."""
    failed_revision: Annotated[str, Meta(max_length=16)] = ""
    """The revision whose rollout failed. To try again, edit the spec or set the annotation gllm.dev/restart."""
    reason: Annotated[str, Meta(max_length=64)] = ""
    """The reason of the most important condition."""
    operator: Annotated[str, Meta(max_length=512)] = ""
    """NAMESPACE/NAME of the operator that manages the deployment. Others that watch the namespace stand back. The
    annotation gllm.dev/operator hands the deployment over."""
    endpoint: Endpoint | None = None
    """Where the model is served."""
    shape: ParallelismStatus | None = None
    """The sizes of a group."""
    estimate: Estimate | None = None
    """Whether the model fits into memory."""
    rollout: RolloutStatus | None = None
    """The current rollout, or the last one."""
    groups: Annotated[tuple[GroupStatus, ...], Meta(max_length=600)] = ()
    """All groups, including draining ones."""
    places: Annotated[tuple[OrdinalStatus, ...], Meta(max_length=600)] = ()
    """What the operator remembers of each ordinal. It is written before the operator acts, so that nothing is done
    twice after a crash."""
    conditions: Annotated[tuple[Condition, ...], Meta(max_length=16)] = ()
    """The conditions Ready, Available, Progressing, Degraded, SpecValid, ModelLoaded, Suspended, RolledBack,
    Reconciling and Stalled; Routed if the spec has a route; Integrated if the cluster lacks an
    API that it needs, or its gateway.parent does not serve it."""


def decode_status(raw: object) -> LLMDeploymentStatus:
    """Decode a stored status. One that cannot be decoded, because another version wrote it, counts as empty."""
    try:
        return msgspec.convert(raw or {}, LLMDeploymentStatus)
    except msgspec.ValidationError:
        return LLMDeploymentStatus()
