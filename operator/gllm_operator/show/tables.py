"""An LLMDeployment as text: a headline, the conditions and the groups."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gllm_operator.api.status import Condition, GroupStatus, LLMDeploymentStatus, decode_status
from gllm_operator.objects import Object, seconds_of

CONDITION_COLUMNS = ("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
GROUP_COLUMNS = ("GROUP", "PHASE", "PODS", "LOADED", "REVISION", "RESTARTS", "IN FLIGHT", "AGE", "LAST FAILURE")
_ONLY_IF_TRUE = ("Degraded", "Suspended", "RolledBack", "Reconciling", "Stalled")
"""Conditions that say nothing while they are false."""


def headline(deployment: Object) -> str:
    metadata, status = deployment["metadata"], decode_status(deployment.get("status"))
    parts = [
        f"llm/{metadata['name']} in {metadata['namespace']}: {status.reason or 'not seen by an operator yet'}",
        f"ready {status.ready}",
        f"up to date {status.updated_replicas}",
    ]
    if status.shape is not None:
        parts.append(status.shape.summary)
    if status.endpoint is not None:
        parts.append(status.endpoint.url)
    if status.observed_generation < metadata.get("generation", 0):
        parts.append(f"the operator has not seen generation {metadata['generation']} yet")
    return ", ".join(parts)


def conditions_of(status: LLMDeploymentStatus) -> list[Condition]:
    """Those that say something."""
    return [one for one in status.conditions if one.type not in _ONLY_IF_TRUE or one.status == "True"]


def condition_rows(status: LLMDeploymentStatus, now: float) -> list[tuple[str, ...]]:
    return [
        (one.type, one.status, one.reason, age(one.last_transition_time, now), message)
        for one, message in _with_messages(status)
    ]


def _with_messages(status: LLMDeploymentStatus) -> list[tuple[Condition, str]]:
    """The conditions that say something, each sentence once."""
    found, seen = [], set()
    for one in conditions_of(status):
        found.append((one, "" if one.message in seen else one.message))
        seen.add(one.message)
    return found


def group_rows(status: LLMDeploymentStatus, now: float) -> list[tuple[str, ...]]:
    return [
        (
            group.name,
            group.phase,
            group.ready_ranks,
            "" if group.load_percent is None else f"{group.load_percent}%",
            group.revision,
            str(group.restarts),
            "" if group.in_flight is None else str(group.in_flight),
            age(group.started_at, now),
            failure(group),
        )
        for group in status.groups
    ]


def failure(group: GroupStatus) -> str:
    found = group.last_failure
    if found is None:
        return ""
    lines = [line.strip() for line in found.message.splitlines() if line.strip()]
    code = "" if found.exit_code is None else f" {found.exit_code}"
    return f"{found.pod}: {found.reason}{code}" + (f": {lines[-1]}" if lines else "")


def age(since: str | None, now: float) -> str:
    """The time since a timestamp in one unit, as kubectl prints it."""
    seconds = seconds_of(since)
    if seconds is None:
        return ""
    left = max(0, int(now - seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if left >= 2 * size:
            return f"{left // size}{unit}"
    return f"{left}s"


def plain(deployment: Object, now: float | None = None) -> str:
    status = decode_status(deployment.get("status"))
    now = time.time() if now is None else now
    lines = [headline(deployment)]
    for columns, rows in (
        (CONDITION_COLUMNS, condition_rows(status, now)),
        (GROUP_COLUMNS, group_rows(status, now)),
    ):
        if rows:
            lines += ["", *_aligned([columns, *rows])]
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def changes(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> list[str]:
    """A line for each condition and group that has changed, without those that say nothing."""
    known = {one.type: (one.status, one.reason, message) for one, message in _with_messages(before)}
    phases = {group.name: (group.phase, group.ready_ranks, failure(group)) for group in before.groups}
    lines = [
        f"{one.type} {one.status} {one.reason}" + (f": {message}" if message else "")
        for one, message in _with_messages(after)
        if known.get(one.type) != (one.status, one.reason, message)
    ]
    for group in after.groups:
        state = (group.phase, group.ready_ranks, failure(group))
        if phases.pop(group.name, None) != state:
            lines.append(
                f"group {group.name} {group.phase} {group.ready_ranks}" + (f": {state[2]}" if state[2] else "")
            )
    return lines + [f"group {name} is gone" for name in phases]
