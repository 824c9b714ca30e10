"""Which groups to create and which to drain, within maxSurge and maxUnavailable. The same rule serves rollouts,
rollbacks, re-sharding, scaling, suspension, and groups that leave their nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gllm_operator.plan.groups import Group
from gllm_operator.plan.health import Health


@dataclass(frozen=True, slots=True)
class Bounds:
    replicas: int
    max_surge: int
    max_unavailable: int
    min_ready: float
    """Seconds that a group must be ready to count as available."""

    @property
    def most(self) -> int:
        return self.replicas + self.max_surge

    @property
    def fewest(self) -> int:
        return max(0, self.replicas - self.max_unavailable)


@dataclass(frozen=True, slots=True)
class GroupChanges:
    create: tuple[int, ...] = ()
    """Ordinals of new groups of the target revision."""
    drain: tuple[Group, ...] = ()


def next_changes(
    groups: Sequence[Group],
    health: Mapping[str, Health],
    target: str,
    bounds: Bounds,
    now: float,
    moving: Collection[str] = (),
) -> GroupChanges:
    """target: the revision that groups should have. Empty: no group is created, and only surplus groups drain.
    moving: names of groups that leave their nodes: new groups replace them, as those of an older revision."""
    live = [group for group in groups if not group.draining]
    # An evicted master takes its group along, so that a new one starts at once where there is room.
    broken = [group for group in live if health[group.name].replace or group.evicted]
    live = [group for group in live if group not in broken]
    current = [group for group in live if not target or group.id.revision == target]
    new = [group for group in current if group.name not in moving]
    old = [group for group in live if group not in new]
    whole = {group.name for group in current if group.name in moving}
    drain = broken + _to_drain(old, new, live, health, bounds, whole, now)
    create: tuple[int, ...] = ()
    if target:
        create = _to_create(groups, new, drain, bounds)
    return GroupChanges(create, tuple(drain))


def hold_for_gateways(changes: GroupChanges, health: Mapping[str, Health], target: str) -> GroupChanges:
    """Keep serving groups of an older revision until all gateways are new: an old gateway may not know new groups."""
    held = {
        group.name
        for group in changes.drain
        if target and group.id.revision != target and group.ready and not (group.evicted or health[group.name].replace)
    }
    return GroupChanges(changes.create, tuple(group for group in changes.drain if group.name not in held))


def _to_drain(
    old: list[Group],
    new: list[Group],
    live: list[Group],
    health: Mapping[str, Health],
    bounds: Bounds,
    whole: Collection[str],
    now: float,
) -> list[Group]:
    """whole: names of groups that drain only when all others serve. The change is not the user's, who might accept
    maxUnavailable, and a group that never served might serve sooner than its replacement."""
    available = {group.name for group in live if group.available(now, bounds.min_ready)}
    surplus = _drain_order(new, health, available)[: max(0, len(new) - bounds.replicas)]
    drained = []
    for group in [*_drain_order(old, health, available), *surplus]:
        left = available - {group.name}
        # A group that does not serve is not counted as available, so draining it costs nothing.
        useless = not group.has_served or health[group.name].phase in ("Failed", "BackingOff", "Broken")
        if len(left) >= bounds.replicas if group.name in whole else useless or len(left) >= bounds.fewest:
            drained.append(group)
            available = left
    return drained


def _drain_order(groups: list[Group], health: Mapping[str, Health], available: set[str]) -> list[Group]:
    """Failed groups first, then groups that never served, then those with the fewest requests. Recovering groups are
    last, because requests wait in them. Between equals the highest ordinal is first."""

    def rank(group: Group) -> tuple[int, int, int, int]:
        if health[group.name].phase in ("Failed", "Broken", "BackingOff"):
            kind = 0
        elif not group.has_served:
            kind = 1
        else:
            kind = 2 if group.name in available else 3
        return kind, group.in_flight if group.in_flight is not None else 1 << 30, -group.id.index, -group.id.instance

    return sorted(groups, key=rank)


def _to_create(groups: Sequence[Group], new: list[Group], drained: list[Group], bounds: Bounds) -> tuple[int, ...]:
    """Draining groups count against maxSurge, whatever their revision, because they hold their accelerators."""
    leaving = [group for group in groups if group.draining or group in drained]
    holding = [group for group in leaving if not group.stuck]
    staying = [group for group in groups if group not in leaving]
    room = bounds.most - len(staying) - len(holding)
    kept = [group for group in new if group not in drained]
    missing = min(bounds.replicas - len(kept), room)
    used = {group.id.index for group in kept}
    free = (index for index in range(bounds.replicas + len(kept)) if index not in used)
    return tuple(index for index, _ in zip(free, range(missing), strict=False)) if missing > 0 else ()
