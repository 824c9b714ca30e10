"""What `plan` answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.plan.observed import Key

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    key: Key
    uid: str
    """Only this very object is meant."""
    why: str
    force: bool = False
    """Without waiting for its node (pods that were given up)."""


@dataclass(frozen=True, slots=True)
class Event:
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Is executed in the order of its fields: what must be remembered is written before anything is done."""

    status: LLMDeploymentStatus
    add_finalizer: bool = False
    creates: tuple[Manifest, ...] = ()
    """Only if they are not there yet."""
    drains: tuple[Delete, ...] = ()
    """StatefulSets of groups that go: their pods get SIGTERM and finish what they have accepted."""
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    remove_finalizer: bool = False
    events: tuple[Event, ...] = ()
    wake_after: float | None = None
    """Seconds after which to look again even if nothing happens."""
    watch_requests: tuple[str, ...] = ()
    """Groups of which the next plan wants to know how many requests they have."""
    watch_loading: tuple[str, ...] = ()
    """Groups of which it wants to know how far they are with their weights."""
