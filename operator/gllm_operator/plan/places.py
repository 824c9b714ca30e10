"""What is remembered of each place: the number of its last group, and how often broken ones were replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Place
from gllm_operator.names import GroupId
from gllm_operator.plan.groups import Group
from gllm_operator.plan.recovery import Health, is_stable


def next_places(
    places: Sequence[Place],
    groups: Sequence[Group],
    health: Mapping[str, Health],
    created: Iterable[int],
    target: str,
    spec: LLMDeploymentSpec,
    now: float,
) -> tuple[tuple[Place, ...], list[GroupId]]:
    """(places, ids of the new groups)."""
    kept = {place.index: place for place in places}
    for group in groups:
        place = kept.get(group.id.index)
        if place is None or place.revision != group.id.revision:
            continue
        if health[group.name].counted:
            kept[place.index] = msgspec.structs.replace(place, restarts=place.restarts + 1)
        elif place.restarts and is_stable(group, spec, now):
            kept[place.index] = msgspec.structs.replace(place, restarts=0)
    ids = []
    for index in created:
        place = kept.get(index)
        same = place is not None and place.revision == target
        used = [group.id.instance for group in groups if (group.id.index, group.id.revision) == (index, target)]
        if place is not None and same:
            used.append(place.instance)
        id = GroupId(index, target, max(used, default=0) + 1)
        ids.append(id)
        kept[index] = Place(
            index=index,
            revision=target,
            instance=id.instance,
            restarts=place.restarts if place is not None and same else 0,
        )
    wanted = 0 if spec.suspend else spec.replicas
    present = {group.id.index for group in groups}
    return tuple(kept[index] for index in sorted(kept) if index < wanted or index in present), ids
