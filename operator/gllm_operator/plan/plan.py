"""plan(observed, now): the whole decision, from the parts beside this file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import LLMDeploymentStatus, Place
from gllm_operator.build.probes import termination_grace
from gllm_operator.build.security import keys_secret
from gllm_operator.build.singles import single_children
from gllm_operator.names import GroupId
from gllm_operator.plan import children
from gllm_operator.plan.events import events
from gllm_operator.plan.groups import STUCK_SECONDS, Group, groups_of, is_lost
from gllm_operator.plan.observed import Observed
from gllm_operator.plan.places import next_places
from gllm_operator.plan.recovery import Health, health_of, is_loading
from gllm_operator.plan.rollout import Bounds, Step, next_step
from gllm_operator.plan.status import StatusFacts, make_status
from gllm_operator.plan.target import Target, choose_target
from gllm_operator.plan.types import Delete, Manifest, Plan
from gllm_operator.spec.revision import PodSource, pod_source, revision_of
from gllm_operator.spec.shape import group_shape
from gllm_operator.spec.validate import problems

_RETRY_SECONDS = 30.0
_WATCH_SECONDS = 2.0
"""How often requests of draining groups are counted, and groups that load are asked how far they are."""


@dataclass(frozen=True)
class Desire:
    """The spec, read and judged."""

    spec: LLMDeploymentSpec | None
    problems: tuple[str, ...]
    rejected: bool
    update: str
    """The spec's revision; empty if it cannot work."""
    sources: dict[str, PodSource]
    """Every revision that can be rendered."""


def plan(observed: Observed, now: float) -> Plan:
    desire = _desire(observed)
    groups = groups_of(observed, now)
    if observed.deleting_since is not None:
        return _plan_deletion(observed, desire, groups, now)
    if desire.spec is None:
        return _only_status(observed, desire, groups, now)
    return _plan_spec(observed, desire, desire.spec, groups, now)


def _desire(observed: Observed) -> Desire:
    sources = {facts.revision: facts.source for facts in observed.revisions if facts.source is not None}
    spec = observed.spec
    if spec is None:
        return Desire(None, (observed.spec_error,), False, "", sources)
    image = spec.image or observed.default_image
    found = tuple(problems(spec, observed.owner.name, image, observed.model))
    if found:
        return Desire(spec, found, False, "", sources)
    source = pod_source(spec, observed.owner.name, image, observed.restart)
    update = revision_of(source)
    refused = children.refused_revisions(observed, [update])
    if refused:
        return Desire(spec, (f"the API server refuses the pods: {refused[update]}",), True, "", sources)
    return Desire(spec, (), False, update, sources | {update: source})


def _plan_spec(observed: Observed, desire: Desire, spec: LLMDeploymentSpec, groups: list[Group], now: float) -> Plan:
    places = observed.status.places
    health = {group.name: health_of(group, spec, places, now) for group in groups}
    failed = frozenset(name for name, one in health.items() if one.phase == "Failed")
    target = choose_target(spec, desire.update, frozenset(desire.sources), observed.status, groups, failed, now)
    bounds = Bounds(
        replicas=0 if spec.suspend else spec.replicas,
        max_surge=spec.rollout.max_surge,
        max_unavailable=spec.rollout.max_unavailable,
        min_ready=spec.rollout.min_ready_seconds,
    )
    step = next_step(groups, health, target.revision, bounds, now)
    new_places, created = next_places(places, groups, health, step.create, target.revision, spec, now)
    status = make_status(
        observed, StatusFacts(desire.update, desire.problems, desire.rejected, target, bounds.fewest),
        groups, health, step, new_places, created, now,
    )  # fmt: skip
    if not observed.has_finalizer:
        return Plan(observed.status, add_finalizer=True, wake_after=0.0)
    return _with_children(observed, desire, spec, groups, step, created, target, status, now)


def _with_children(
    observed: Observed,
    desire: Desire,
    spec: LLMDeploymentSpec,
    groups: list[Group],
    step: Step,
    created: list[GroupId],
    target: Target,
    status: LLMDeploymentStatus,
    now: float,
) -> Plan:
    leaving = {group.name for group in step.drain}
    staying = [group for group in groups if not group.draining and group.name not in leaving]
    in_use = [group.id.revision for group in groups] + [id.revision for id in created]
    kept = [revision for revision in (*in_use, desire.update, target.revision, status.current_revision) if revision]
    singles = single_children(observed.owner, spec, observed.apis) if _renderable(spec) else []
    wanted: list[Manifest] = [
        *singles,
        *children.revisions_of(observed, desire.sources, kept),
        *children.sets_of(observed, staying, created, desire.sources),
    ]
    drains = children.drains_of([*step.drain, *(group for group in groups if group.draining)])
    deletes = [
        *_lost_pods(groups, spec.recovery.lost_pods == "Replace", now),
        *(children.to_delete(observed, singles) if singles else ()),
        *children.old_revisions(observed, kept, spec.rollout.revision_history_limit),
    ]
    several = any(group_shape(one.parallelism, one.accelerator).pods > 1 for one in desire.sources.values())
    creates = () if observed.keys_known or not several else (keys_secret(observed.owner, observed.fresh_keys),)
    return Plan(
        status=status,
        creates=creates,
        applies=tuple(children.to_apply(observed, wanted)),
        drains=tuple(drains),
        deletes=tuple(deletes),
        events=events(observed.status, status),
        wake_after=_wake_after(observed, spec, groups, target, status.places, now),
        watch_requests=_curious(groups, step, staying, target),
        watch_loading=tuple(
            group.name for group in staying if is_loading(group, health_of(group, spec, status.places, now))
        ),
    )


def _renderable(spec: LLMDeploymentSpec) -> bool:
    try:
        group_shape(spec.parallelism, spec.accelerator)
    except ValueError:
        return False
    return True


def _plan_deletion(observed: Observed, desire: Desire, groups: list[Group], now: float) -> Plan:
    """Groups drain; the finalizer comes off when they are gone, or when they should be."""
    assert observed.deleting_since is not None
    grace = max((termination_grace(source) for source in desire.sources.values()), default=30)
    deadline = observed.deleting_since + grace + STUCK_SECONDS
    gone = all(group.stuck for group in groups)
    health = {group.name: Health("Draining") for group in groups}
    facts = StatusFacts(desire.update, desire.problems, desire.rejected, Target("", "", observed.status.rollout), 0)
    status = make_status(observed, facts, groups, health, Step(), observed.status.places, [], now)
    return Plan(
        status=status,
        drains=tuple(children.drains_of(groups)),
        deletes=tuple(_lost_pods(groups, True, now)),
        events=events(observed.status, status),
        remove_finalizer=observed.has_finalizer and (gone or now >= deadline),
        wake_after=max(1.0, min(deadline - now, _WATCH_SECONDS * 5)),
        watch_requests=tuple(group.name for group in groups if group.has_served),
    )


def _only_status(observed: Observed, desire: Desire, groups: list[Group], now: float) -> Plan:
    """The spec cannot be read: everything stays as it is."""
    health = {group.name: Health("Ready" if group.ready else "Loading") for group in groups}
    target = Target("", "", observed.status.rollout)
    facts = StatusFacts("", desire.problems, False, target, 0)
    status = make_status(observed, facts, groups, health, Step(), observed.status.places, [], now)
    return Plan(status, events=events(observed.status, status))


def _lost_pods(groups: Iterable[Group], replace: bool, now: float) -> list[Delete]:
    """Pods whose nodes are lost. Of a group that goes they only stand in the way."""
    return [
        Delete(pod.key, pod.uid, f"its node {pod.node} is lost", force=True)
        for group in groups
        if replace or group.draining
        for pod in group.pods
        if is_lost(pod, now)
    ]


def _curious(groups: list[Group], step: Step, staying: list[Group], target: Target) -> tuple[str, ...]:
    """Whose requests matter: those of groups that go, and those between which somebody must choose who goes."""
    going = {group.name for group in groups if group.draining} | {group.name for group in step.drain}
    old = {group.name for group in staying if group.ready and target.revision and group.id.revision != target.revision}
    return tuple(sorted(going | old))


def _wake_after(
    observed: Observed,
    spec: LLMDeploymentSpec,
    groups: list[Group],
    target: Target,
    places: tuple[Place, ...],
    now: float,
) -> float | None:
    """When something falls due by itself."""
    due = [] if target.deadline is None else [target.deadline]
    restarts = {place.index: place.restarts for place in places}
    for group in groups:
        health = health_of(group, spec, places, now)
        if health.due_at is not None:
            due.append(health.due_at)
        if group.draining or is_loading(group, health):
            due.append(now + _WATCH_SECONDS)
        elif group.ready and group.ready_since is not None:
            due.append(group.ready_since + spec.rollout.min_ready_seconds)
            if restarts.get(group.id.index):
                due.append(group.ready_since + spec.recovery.stable_after_seconds)
        due += [pod.gone_by + STUCK_SECONDS for pod in group.pods if pod.gone_by is not None]
    if observed.refused:
        due.append(now + _RETRY_SECONDS)
    waits = [when - now for when in due if when > now]
    return min(waits) + 0.05 if waits else None
