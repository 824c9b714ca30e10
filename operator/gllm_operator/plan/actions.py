"""The plan: the new status and the writes, deletions and events that a pass carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.objects import Manifest, ObjectRef


@dataclass(frozen=True, slots=True)
class Delete:
    ref: ObjectRef
    uid: str
    """Only the object with this uid is deleted."""
    why: str
    force: bool = False
    """Whether to delete without waiting for the node, as for pods of lost nodes."""


@dataclass(frozen=True, slots=True)
class PodLabel:
    """A new value of the label gllm.dev/serving."""

    ref: ObjectRef
    uid: str
    serving: str


@dataclass(frozen=True, slots=True)
class Event:
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions of a pass. They are carried out in the order of the fields: the next plan relies on the status."""

    status: LLMDeploymentStatus
    claim: str = ""
    """The operator's name: mark the LLMDeployment with it and add the finalizer, before anything else is written."""
    managed_by: str = ""
    """The operator that manages the LLMDeployment, if it is another one. Then this one writes only the events, once."""
    forget: tuple[ObjectRef, ...] = ()
    """Objects whose refusals no longer matter."""
    probes: tuple[Manifest, ...] = ()
    """Objects that were refused as invalid, to try again without writing them."""
    labels: tuple[PodLabel, ...] = ()
    """Masters that leave the Service, or return to it."""
    creates: tuple[Manifest, ...] = ()
    """Objects to create only if they do not exist."""
    drains: tuple[Delete, ...] = ()
    """StatefulSets of groups that drain: their pods get SIGTERM and finish the requests they have accepted."""
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    remove_finalizer: bool = False
    events: tuple[Event, ...] = ()
    wake_after: float | None = None
    """Seconds until the next pass if nothing changes before; None: none is due."""
    watch_gateways: bool = False
    """Whether the next plan needs to know how long the gateways have had no requests."""
    watch_requests: tuple[str, ...] = ()
    """Names of groups whose number of requests the next plan needs."""
    watch_loading: tuple[str, ...] = ()
    """Names of groups whose loading progress the next plan needs."""
