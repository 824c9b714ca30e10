"""Sentences about groups, for the messages of conditions."""

from __future__ import annotations

from collections.abc import Sequence

from gllm_operator.api.status import GroupStatus

_WORST_FIRST = ("Failed", "BackingOff", "Broken", "Recovering", "Pending", "Loading")


def worst(groups: Sequence[GroupStatus]) -> str:
    """A sentence about the group that needs attention most, with its cause; empty if all serve or drain."""
    waiting = [group for group in groups if group.phase in _WORST_FIRST]
    order = sorted(waiting, key=lambda group: (_WORST_FIRST.index(group.phase), group.last_failure is None))
    return describe(order[0]) if order else ""


def describe(group: GroupStatus) -> str:
    loaded = "" if group.load_percent is None else f", {group.load_percent}% of the weights loaded"
    text = f"group {group.name} is {group.phase} ({group.ready_ranks} pods ready{loaded})"
    if group.restart_at and group.phase == "BackingOff":
        text += f", it is replaced at {group.restart_at}"
    failure = group.last_failure
    if failure is not None:
        code = "" if failure.exit_code is None else f" (exit status {failure.exit_code})"
        where = f" on {failure.node}" if failure.node else ""
        lines = [line for line in failure.message.strip().splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:500]}" if lines else ""
        text += f"; rank {failure.rank}, pod {failure.pod}{where}: {failure.reason}{code}{last}"
    return text
