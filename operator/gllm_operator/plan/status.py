"""The whole status, from what was observed and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Endpoint, GroupStatus, LLMDeploymentStatus, Place, Shape
from gllm_operator.build.model import served_name
from gllm_operator.names import GroupId, Owner, masters_selector
from gllm_operator.plan.conditions import Facts, conditions, headline
from gllm_operator.plan.groups import Group
from gllm_operator.plan.observed import Observed
from gllm_operator.plan.record import group_status, new_group_status
from gllm_operator.plan.recovery import Health
from gllm_operator.plan.rollout import Step
from gllm_operator.plan.target import Target
from gllm_operator.spec.estimate import estimate
from gllm_operator.spec.shape import GroupShape, group_shape


@dataclass(frozen=True, slots=True)
class StatusFacts:
    update: str
    problems: tuple[str, ...]
    rejected: bool
    target: Target
    fewest: int


def make_status(
    observed: Observed,
    facts: StatusFacts,
    groups: Sequence[Group],
    health: Mapping[str, Health],
    step: Step,
    places: tuple[Place, ...],
    created: Sequence[GroupId],
    now: float,
) -> LLMDeploymentStatus:
    spec, owner, before = observed.spec, observed.owner, observed.status
    wanted = 0 if spec is None or spec.suspend else spec.replicas
    leaving = {group.name for group in step.drain}
    live = [group for group in groups if not group.draining and group.name not in leaving]
    min_ready = spec.rollout.min_ready_seconds if spec is not None else 0
    ready = sum(group.ready for group in live)
    available = sum(group.available(now, min_ready) for group in live)
    entries = _entries(owner, groups, health, leaving, places, created, spec, now)
    found = conditions(
        Facts(
            spec=spec,
            problems=facts.problems,
            rejected=facts.rejected,
            obstacles=tuple(f"{key.kind} {key.name}: {refusal.message}" for key, refusal in
                            sorted(observed.refused.items()) if key.kind != "StatefulSet" or not refusal.final),
            target=facts.target,
            update=facts.update,
            groups=entries,
            wanted=wanted,
            ready=ready,
            available=available,
            fewest=min(facts.fewest, wanted),
            deleting=observed.deleting_since is not None,
        ),
        before.conditions, observed.generation, now,
    )  # fmt: skip
    rollout = facts.target.rollout
    finished = rollout is not None and rollout.complete and rollout.revision == facts.target.revision
    shape = _shape(spec)
    return msgspec.structs.replace(
        before,
        observed_generation=observed.generation,
        replicas=len(live) + len(created),
        ready_replicas=ready,
        updated_replicas=sum(group.id.revision == facts.update for group in live)
        + sum(id.revision == facts.update for id in created),
        available_replicas=available,
        unavailable_replicas=max(0, wanted - available),
        ready=f"{ready}/{wanted}",
        selector=",".join(f"{key}={value}" for key, value in masters_selector(owner.name).items()),
        current_revision=facts.target.revision if finished else before.current_revision,
        update_revision=facts.update or before.update_revision,
        failed_revision=facts.target.failed if facts.update else before.failed_revision,
        reason=headline(found),
        endpoint=_endpoint(owner, spec),
        shape=None if spec is None or shape is None else _shape_status(shape, spec, wanted),
        estimate=None if spec is None or shape is None else estimate(spec, shape, observed.model),
        rollout=rollout,
        groups=entries,
        places=places,
        conditions=found,
    )


def _entries(
    owner: Owner,
    groups: Sequence[Group],
    health: Mapping[str, Health],
    leaving: set[str],
    places: Sequence[Place],
    created: Sequence[GroupId],
    spec: LLMDeploymentSpec | None,
    now: float,
) -> tuple[GroupStatus, ...]:
    restarts = {(place.index, place.revision): place.restarts for place in places}
    shape = _shape(spec)
    entries = [
        group_status(
            group, health[group.name], restarts.get((group.id.index, group.id.revision), 0), group.name in leaving
        )
        for group in groups
    ]
    entries += [
        new_group_status(id, owner.name, shape.pods if shape else 1, restarts.get((id.index, id.revision), 0), now)
        for id in created
    ]
    return tuple(sorted(entries, key=lambda entry: (entry.index, entry.revision, entry.instance)))


def _shape(spec: LLMDeploymentSpec | None) -> GroupShape | None:
    try:
        return None if spec is None else group_shape(spec.parallelism, spec.accelerator)
    except ValueError:
        return None


def _shape_status(shape: GroupShape, spec: LLMDeploymentSpec, wanted: int) -> Shape:
    devices = shape.world * wanted if spec.accelerator.type == "cuda" else 0
    return Shape(summary=shape.summary, world_size=shape.world, pods_per_group=shape.pods, accelerators=devices)


def _endpoint(owner: Owner, spec: LLMDeploymentSpec | None) -> Endpoint | None:
    if spec is None:
        return None
    port = "" if spec.server.service_port == 80 else f":{spec.server.service_port}"
    return Endpoint(url=f"http://{owner.name}.{owner.namespace}.svc{port}/v1", models=(served_name(spec.model),))
