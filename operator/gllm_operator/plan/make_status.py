"""Builds the whole status from the observed state and the decisions of the pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from gllm_operator.api.gateway import Gateway
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Endpoint, GroupStatus, LLMDeploymentStatus, OrdinalStatus, ParallelismStatus
from gllm_operator.build.model_source import served_name
from gllm_operator.build.route import has_route
from gllm_operator.names import GroupId, Owner, masters_selector
from gllm_operator.plan.conditions import conditions, headline
from gllm_operator.plan.group_status import group_status, new_group_status
from gllm_operator.plan.groups import Group
from gllm_operator.plan.health import Health
from gllm_operator.plan.idle import NOT_IDLE, Idleness
from gllm_operator.plan.moves import STILL, Moves
from gllm_operator.plan.observed import Observed
from gllm_operator.plan.ready import StatusFacts, verdict
from gllm_operator.plan.refusals import Obstacle
from gllm_operator.plan.rollout import GroupChanges
from gllm_operator.plan.target import Target, current_revision
from gllm_operator.spec.estimate import estimate
from gllm_operator.spec.parallel_config import ParallelConfig, parallel_config
from gllm_operator.spec.shared_model import SharedModel


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """What the pass has decided about the spec and its objects."""

    update: str
    problems: tuple[str, ...]
    rejected: bool
    target: Target
    fewest: int
    obstacles: tuple[Obstacle, ...] = ()
    missing: tuple[str, ...] = ()
    writes: bool = False
    """Whether this pass writes objects."""
    blocked: bool = False
    """Whether the API server refuses the spec's revision, so that the target is an earlier one."""
    idle: Idleness = NOT_IDLE
    moves: Moves = STILL


def make_status(
    observed: Observed,
    inputs: StatusInputs,
    groups: Sequence[Group],
    health: Mapping[str, Health],
    changes: GroupChanges,
    ordinals: tuple[OrdinalStatus, ...],
    created: Sequence[GroupId],
    now: float,
) -> LLMDeploymentStatus:
    spec, owner, before = observed.spec, observed.owner, observed.status
    replicas = 0 if spec is None else spec.effective_replicas
    leaving = {group.name for group in changes.drain}
    live = [group for group in groups if not group.draining and group.name not in leaving]
    min_ready = spec.rollout.min_ready_seconds if spec is not None else 0
    serving = [group for group in live if group.ready]
    updated = sum(group.id.revision == inputs.update for group in serving)
    available = sum(group.available(now, min_ready) for group in live)
    entries = _entries(owner, groups, health, leaving, ordinals, created, before, spec, now)
    problems, rejected = _with_refused_pods(inputs)
    facts = StatusFacts(
        spec=spec,
        problems=problems,
        rejected=rejected,
        obstacles=inputs.obstacles,
        missing=inputs.missing,
        not_shared=observed.not_shared,
        unwritten=inputs.writes and not _was_ready(observed),
        target=inputs.target,
        update=inputs.update,
        groups=entries,
        replicas=replicas,
        idle=inputs.idle,
        moves=inputs.moves,
        ready=len(serving),
        updated=updated,
        available=available,
        fewest=min(inputs.fewest, replicas),
        deleting=observed.deleting_since is not None,
        route=observed.route_answers if spec is not None and has_route(spec, observed.apis) else None,
    )
    found = verdict(facts)
    parallel = _parallel(spec)
    gateway = observed.spec.gateway if observed.spec is not None else None
    return msgspec.structs.replace(
        before,
        observed_generation=observed.generation,
        replicas=len(live) + len(created),
        ready_replicas=len(serving),
        updated_replicas=updated,
        available_replicas=available,
        unavailable_replicas=max(0, replicas - available),
        ready=f"{len(serving)}/{replicas}",
        gateways="" if gateway is None else f"{observed.gateways_ready}/{_wanted_gateways(observed, gateway)}",
        idle=inputs.idle.idle,
        waking=inputs.idle.waking,
        selector=",".join(f"{key}={value}" for key, value in masters_selector(owner.name).items()),
        current_revision=current_revision(inputs.target, before),
        update_revision=inputs.update or before.update_revision,
        failed_revision=inputs.target.failed if inputs.update and not inputs.blocked else before.failed_revision,
        reason=headline(facts, found),
        operator=observed.operator,
        endpoint=_endpoint(owner, spec, observed.shared),
        shape=None if spec is None or parallel is None else _parallelism(parallel, spec),
        estimate=None if spec is None or parallel is None else estimate(spec, parallel, observed.model),
        rollout=inputs.target.rollout,
        groups=entries,
        places=ordinals,
        conditions=conditions(facts, found, before.conditions, observed.generation, now),
    )


def _with_refused_pods(inputs: StatusInputs) -> tuple[tuple[str, ...], bool]:
    """The problems of the spec, with those of its pods that the API server found: Pod Security refuses pods, and not
    the StatefulSets that create them."""
    if inputs.problems or not inputs.update:
        return inputs.problems, inputs.rejected
    refused = [
        obstacle.message
        for obstacle in inputs.obstacles
        if obstacle.reason == "Rejected" and obstacle.revision == inputs.update
    ]
    return tuple(f"the API server refuses {message}" for message in refused[:1]), bool(refused)


def _was_ready(observed: Observed) -> bool:
    """Whether this generation was ready before. Then a write restores what another has changed."""
    ready = next((one for one in observed.status.conditions if one.type == "Ready"), None)
    return ready is not None and ready.status == "True" and ready.observed_generation == observed.generation


def _entries(
    owner: Owner,
    groups: Sequence[Group],
    health: Mapping[str, Health],
    leaving: set[str],
    ordinals: Sequence[OrdinalStatus],
    created: Sequence[GroupId],
    before: LLMDeploymentStatus,
    spec: LLMDeploymentSpec | None,
    now: float,
) -> tuple[GroupStatus, ...]:
    records = {record.name: record for record in before.groups}
    restarts = {(one.index, one.revision): one.restarts for one in ordinals}
    parallel = _parallel(spec)
    entries = [
        group_status(
            group, health[group.name], restarts.get((group.id.index, group.id.revision), 0), group.name in leaving
        )
        for group in groups
    ]
    entries += [
        new_group_status(
            id,
            owner.name,
            parallel.pods if parallel else 1,
            restarts.get((id.index, id.revision), 0),
            records.get(id.name(owner.name)),
            now,
        )
        for id in created
    ]
    return tuple(sorted(entries, key=lambda entry: (entry.index, entry.revision, entry.instance)))


def _parallel(spec: LLMDeploymentSpec | None) -> ParallelConfig | None:
    try:
        return None if spec is None else parallel_config(spec.parallelism, spec.accelerator)
    except ValueError:
        return None


def _parallelism(parallel: ParallelConfig, spec: LLMDeploymentSpec) -> ParallelismStatus:
    return ParallelismStatus(
        summary=parallel.summary,
        world_size=parallel.world,
        pods_per_group=parallel.pods,
        accelerators=parallel.world * spec.effective_replicas if spec.accelerator.type == "cuda" else 0,
    )


def _wanted_gateways(observed: Observed, gateway: Gateway) -> int:
    return gateway.replicas if gateway.parent is None else observed.gateways_wanted


def _endpoint(owner: Owner, spec: LLMDeploymentSpec | None, shared: Sequence[SharedModel]) -> Endpoint | None:
    if spec is None:
        return None
    port = "" if spec.server.service_port == 80 else f":{spec.server.service_port}"
    models = (spec.model, *(one.source.model for one in shared))
    return Endpoint(url=f"http://{owner.name}.{owner.namespace}.svc{port}/v1", models=tuple(map(served_name, models)))
