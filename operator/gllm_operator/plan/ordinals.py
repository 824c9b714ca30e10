"""status.places: for each ordinal the instance number of its last group, and how often it was restarted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import OrdinalStatus
from gllm_operator.names import GroupId
from gllm_operator.plan.groups import Group
from gllm_operator.plan.health import Health, is_stable

_MOST_INSTANCES = 999
"""Names have room for three digits. After so many groups of an ordinal the numbers begin again."""


def next_ordinals(
    ordinals: Sequence[OrdinalStatus],
    groups: Sequence[Group],
    health: Mapping[str, Health],
    created: Iterable[int],
    target: str,
    spec: LLMDeploymentSpec,
    now: float,
) -> tuple[tuple[OrdinalStatus, ...], list[GroupId]]:
    """Return the new status.places and the ids of the groups to create at the ordinals `created`."""
    kept = {ordinal.index: ordinal for ordinal in ordinals}
    for group in groups:
        ordinal = kept.get(group.id.index)
        if ordinal is None or ordinal.revision != group.id.revision:
            continue
        if ordinal.instance == group.id.instance and not ordinal.seen:
            ordinal = kept[ordinal.index] = msgspec.structs.replace(ordinal, seen=True)
        if health[group.name].counted:
            kept[ordinal.index] = msgspec.structs.replace(ordinal, restarts=ordinal.restarts + 1)
        elif ordinal.restarts and ordinal.instance == group.id.instance and is_stable(group, spec, now):
            kept[ordinal.index] = msgspec.structs.replace(ordinal, restarts=0)
    ids = []
    for index in created:
        ordinal = kept.get(index)
        same_revision = ordinal is not None and ordinal.revision == target
        used = {group.id.instance for group in groups if group.id.index == index}
        last = ordinal.instance if ordinal is not None else max(used, default=0)
        # A group that was never seen could not be written, so its name is still free.
        tried = ordinal is not None and same_revision and not ordinal.seen
        id = GroupId(index, target, last if tried else _next_instance(last, used))
        ids.append(id)
        kept[index] = OrdinalStatus(
            index=index,
            revision=target,
            instance=id.instance,
            restarts=ordinal.restarts if ordinal is not None and same_revision else 0,
        )
    return tuple(kept[index] for index in sorted(kept)), ids


def _next_instance(last: int, used: Collection[int]) -> int:
    """The number after `last` that no group of the ordinal has. It grows with every group of whatever revision, so that
    names are not reused when a revision or an ordinal comes back."""
    number = last % _MOST_INSTANCES + 1
    while number in used:
        number = number % _MOST_INSTANCES + 1
    return number
