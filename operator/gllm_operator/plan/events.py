"""Events: one for each change between two statuses, so that none is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gllm_operator.api.status import Condition, GroupStatus, LLMDeploymentStatus
from gllm_operator.plan.actions import Event

_BAD = frozenset(
    {
        "SpecInvalid",
        "Rejected",
        "CannotWrite",
        "RolledBack",
        "ProgressDeadlineExceeded",
        "TooFewGroups",
        "ApiMissing",
        "EvictionsGoOn",
    }
)
"""Reasons of conditions whose event is a warning."""
_QUIET = frozenset({"GroupRecovering", "GroupBroken", "GroupFailed", "Writing", "Loaded", "NotLoaded"})
"""Reasons without an event."""
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
    new = [one for one in after if known.get(one.type) != (one.status, one.reason) and one.message]
    found: dict[str, Event] = {}
    for one in new:
        bad = one.reason in _BAD
        first = one.type not in known
        # Groups have their own events. Ready repeats what other conditions say, but the end of a recovery.
        if one.reason in _QUIET or (first and (not bad or one.reason == "TooFewGroups")):
            continue
        found.setdefault(one.reason, Event("Warning" if bad else "Normal", one.reason, one.message[:1000]))
    if "Complete" in found:
        found.pop("AllGroupsReady", None)
    return list(found.values())
