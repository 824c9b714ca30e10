"""status of an LLMDeployment."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gllm_operator.api.types import ApiObject

Phase = Literal["Pending", "Loading", "Ready", "Recovering", "Draining", "Broken", "BackingOff", "Failed"]


class Condition(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    type: Annotated[str, Meta(max_length=316)]
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Meta(max_length=1024)]
    """One word, for programs."""
    message: Annotated[str, Meta(max_length=32768)]
    """For people: what is the matter and what to do."""
    last_transition_time: Annotated[str, Meta(max_length=32)]
    """When status last changed."""
    observed_generation: int
    """The metadata.generation that it speaks of."""


class Failure(ApiObject, frozen=True, kw_only=True):
    time: Annotated[str, Meta(max_length=32)]
    """When it was seen."""
    rank: int
    """Node rank of the pod: 0 is the master."""
    pod: Annotated[str, Meta(max_length=253)]
    """Name of the pod."""
    node: Annotated[str, Meta(max_length=253)] = ""
    """Node on which it was."""
    reason: Annotated[str, Meta(max_length=256)]
    """One word."""
    exit_code: int | None = None
    """Of the container."""
    message: Annotated[str, Meta(max_length=1024)] = ""
    """What the container or the kubelet said."""


class GroupStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    name: Annotated[str, Meta(max_length=64)]
    """Its StatefulSets are NAME-m and NAME-s."""
    index: int
    """Its place, from 0 to replicas - 1."""
    revision: Annotated[str, Meta(max_length=16)]
    """What it was made from."""
    instance: int
    """Which group in this place and of this revision it is, from 1."""
    phase: Phase
    """Informational. Broken, BackingOff and Failed: see lastFailure."""
    ready_ranks: Annotated[str, Meta(max_length=16)]
    """Pods that are ready, of all."""
    load_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    """How much of the weights is loaded, while it loads; null: not known."""
    restarts: int = 0
    """New groups made in this place because one was broken, since it was last stable."""
    container_restarts: int = 0
    """Restarts of containers in its pods."""
    in_flight: int | None = None
    """Requests it still has, while it drains; null: not known."""
    started_at: Annotated[str, Meta(max_length=32)] | None = None
    """When its first pod was made."""
    ready_at: Annotated[str, Meta(max_length=32)] | None = None
    """Since when it is ready, or was the last time."""
    unready_at: Annotated[str, Meta(max_length=32)] | None = None
    """Since when it is not ready, having been so."""
    restart_at: Annotated[str, Meta(max_length=32)] | None = None
    """When the broken group will be replaced."""
    last_failure: Failure | None = None
    """What last went wrong in it."""


class Endpoint(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    url: Annotated[str, Meta(max_length=512)]
    """Base URL of the OpenAI API, inside the cluster."""
    models: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=4)] = ()
    """The model's name in requests."""


class ParallelismStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    summary: Annotated[str, Meta(max_length=64)]
    """Such as PP4xTP8xEP8."""
    world_size: int
    """Ranks of a group."""
    pods_per_group: int
    """Pods of a group."""
    accelerators: int
    """Accelerators of all groups, as the spec wants them."""


class Estimate(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    fits: Annotated[str, Meta(max_length=16)]
    """Yes, No or Unknown."""
    weights_per_rank: int | None = None
    """Bytes of weights on the fullest rank."""
    kv_tokens: int | None = None
    """Tokens of KV cache of a group."""
    message: Annotated[str, Meta(max_length=1024)] = ""
    """How it was told, or why it could not be."""


class RolloutStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    revision: Annotated[str, Meta(max_length=16)]
    """The revision that is being rolled out."""
    progressed_at: Annotated[str, Meta(max_length=32)]
    """When it last came further."""
    score: int = 0
    """How far it has come: grows with each step."""
    complete: bool = False
    """Whether all groups are of this revision, and available."""


class OrdinalStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False):
    index: int
    """The place."""
    revision: Annotated[str, Meta(max_length=16)]
    """Revision of the last group there."""
    instance: int
    """Number of the last group there; the next one has a higher one, so that no name is used twice."""
    restarts: int = 0
    """Broken groups of this revision that were replaced, since one was last stable."""


class LLMDeploymentStatus(ApiObject, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=False):
    observed_generation: int = 0
    """The metadata.generation that this status speaks of."""
    replicas: int = 0
    """Groups that are not draining."""
    ready_replicas: int = 0
    """Groups that serve."""
    updated_replicas: int = 0
    """Groups of the update revision that are not draining."""
    available_replicas: int = 0
    """Groups that have served for rollout.minReadySeconds."""
    unavailable_replicas: int = 0
    """Groups that the spec wants and that are not available."""
    ready: Annotated[str, Meta(max_length=16)] = "0/0"
    """Ready groups, of those wanted."""
    selector: Annotated[str, Meta(max_length=256)] = ""
    """Label selector of the master pods, one a group."""
    current_revision: Annotated[str, Meta(max_length=16)] = ""
    """The last revision that all groups were of; what a failed rollout goes back to."""
    update_revision: Annotated[str, Meta(max_length=16)] = ""
    """The revision that the spec asks for."""
    failed_revision: Annotated[str, Meta(max_length=16)] = ""
    """A revision that was given up; edit the spec, or set the annotation gllm.dev/restart, to try anew."""
    reason: Annotated[str, Meta(max_length=64)] = ""
    """Reason of the condition that matters most."""
    endpoint: Endpoint | None = None
    """Where it is served."""
    shape: ParallelismStatus | None = None
    """What a group is made of."""
    estimate: Estimate | None = None
    """Whether the model fits."""
    rollout: RolloutStatus | None = None
    """The rollout at hand, or the last one."""
    groups: Annotated[tuple[GroupStatus, ...], Meta(max_length=600)] = ()
    """Each group, draining ones too."""
    places: Annotated[tuple[OrdinalStatus, ...], Meta(max_length=600)] = ()
    """What the operator remembers of each place: written before it acts, so that a crash repeats nothing."""
    conditions: Annotated[tuple[Condition, ...], Meta(max_length=16)] = ()
    """Ready, Available, Progressing, Degraded, SpecValid, ModelLoaded, Suspended, RolledBack."""


def decode_status(raw: object) -> LLMDeploymentStatus:
    """A stored status; what cannot be read (another version wrote it) counts as none."""
    try:
        return msgspec.convert(raw or {}, LLMDeploymentStatus)
    except msgspec.ValidationError:
        return LLMDeploymentStatus()
