"""Events: one for each change between two statuses, so that none is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gllm_operator.api.status import Condition, GroupStatus, LLMDeploymentStatus
from gllm_operator.plan.actions import Event

_BAD = {"Ready": "False", "Available": "False", "Degraded": "True", "SpecValid": "False", "RolledBack": "True"}
_PHASES: dict[str, tuple[Literal["Normal", "Warning"], str, str]] = {
    "Loading": ("Normal", "GroupLoading", "all its pods run, and the model loads"),
    "Ready": ("Normal", "GroupReady", "it serves"),
    "Recovering": ("Warning", "GroupRecovering", "it lost a process or a pod, and its requests wait"),
    "Draining": ("Normal", "GroupDraining", "it accepts no new requests and finishes those it has"),
    "Broken": ("Warning", "GroupBroken", "it did not heal by itself and is replaced"),
    "BackingOff": ("Warning", "GroupBackingOff", "it did not heal by itself and will be replaced"),
    "Failed": ("Warning", "GroupFailed", "it did not heal and is not replaced"),
}


def events(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> tuple[Event, ...]:
    return (*_of_groups(before.groups, after.groups), *_of_conditions(before.conditions, after.conditions))


def _of_groups(before: tuple[GroupStatus, ...], after: tuple[GroupStatus, ...]) -> list[Event]:
    phases: Mapping[str, str] = {group.name: group.phase for group in before}
    found = []
    for group in after:
        old = phases.get(group.name)
        if old is None and group.phase != "Draining":
            found.append(Event("Normal", "GroupCreated", f"group {group.name} of revision {group.revision} is created"))
        if old != group.phase and group.phase in _PHASES:
            type, reason, text = _PHASES[group.phase]
            cause = group.last_failure
            more = f" ({cause.pod}: {cause.reason})" if type == "Warning" and cause is not None else ""
            found.append(Event(type, reason, f"group {group.name}: {text}{more}"))
    present = {group.name for group in after}
    found += [Event("Normal", "GroupGone", f"group {name} is gone") for name in phases if name not in present]
    return found


def _of_conditions(before: tuple[Condition, ...], after: tuple[Condition, ...]) -> list[Event]:
    known = {one.type: (one.status, one.reason) for one in before}
    found: list[Event] = []
    for one in after:
        old = known.get(one.type)
        if old == (one.status, one.reason) or (
            one.type in ("ModelLoaded", "Ready", "Available", "Degraded", "Reconciling", "Stalled") and old is None
        ):
            continue
        bad = _BAD.get(one.type) == one.status or one.reason in ("ProgressDeadlineExceeded",)
        if old is None and not bad:
            continue
        if one.reason in ("GroupRecovering", "GroupBroken", "GroupFailed"):
            continue  # The event of the group says the same.
        if one.type == "ModelLoaded" or (not bad and not one.message):
            continue
        if any(event.reason == one.reason for event in found):
            continue  # Another condition has the same reason.
        found.append(Event("Warning" if bad else "Normal", one.reason, one.message[:1000]))
    return found
