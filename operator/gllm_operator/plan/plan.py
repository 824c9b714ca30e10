"""plan(observed, now): the decision of one pass, put together from the modules beside this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import OrdinalStatus
from gllm_operator.build.probes import termination_grace
from gllm_operator.build.rendering import Rendering, render
from gllm_operator.build.singletons import keys_secret, missing_apis, singletons
from gllm_operator.names import OPERATOR, GroupId
from gllm_operator.objects import Manifest, ObjectRef, ref_of
from gllm_operator.plan import owned_objects, refusals
from gllm_operator.plan.actions import Delete, Event, Plan
from gllm_operator.plan.events import events
from gllm_operator.plan.groups import STUCK_SECONDS, Group, groups_of, is_lost
from gllm_operator.plan.health import Health, health_of, is_loading
from gllm_operator.plan.idle import NOT_IDLE, Idleness, ask_after, idleness, watches, with_idleness
from gllm_operator.plan.in_service import all_labelled, labels_to_set
from gllm_operator.plan.make_status import StatusInputs, make_status
from gllm_operator.plan.moves import Moves, find_moves
from gllm_operator.plan.observed import CREATION, Observed, Refusal
from gllm_operator.plan.ordinals import next_ordinals
from gllm_operator.plan.rollout import Bounds, GroupChanges, hold_for_gateways, next_changes
from gllm_operator.plan.target import Target, choose_target, current_revision
from gllm_operator.plan.validate import problems
from gllm_operator.spec.parallel_config import parallel_config
from gllm_operator.spec.revision import pod_source

_WATCH_SECONDS = 2.0
"""How often masters are asked for their requests (draining groups) or their loading progress."""


@dataclass(frozen=True)
class DesiredState:
    """The spec, decoded and validated."""

    spec: LLMDeploymentSpec | None
    problems: tuple[str, ...]
    update: str
    """The spec's revision; empty if the spec is invalid."""
    renderings: Mapping[str, Rendering]
    """The source of each revision whose pods can be rendered."""
    refused: tuple[ObjectRef, Refusal] | None = None
    """The StatefulSet of the spec's revision that the API server refuses as invalid, and its refusal."""

    @property
    def possible(self) -> str:
        """The spec's revision; empty if the spec is invalid or its StatefulSets are refused."""
        return "" if self.refused is not None else self.update


def plan(observed: Observed, now: float) -> Plan:
    if observed.managed_by not in ("", observed.operator):
        return Plan(observed.status, managed_by=observed.managed_by, events=(_stands_back(observed),))
    deleting = observed.deleting_since is not None
    if not deleting and (not observed.has_finalizer or observed.managed_by != observed.operator):
        return Plan(observed.status, claim=observed.operator, wake_after=0.0)
    if deleting and observed.orphaned:
        return Plan(observed.status, remove_finalizer=observed.has_finalizer)
    idle = NOT_IDLE if observed.spec is None else idleness(observed, observed.spec, now)
    if observed.spec is not None:
        observed = replace(observed, spec=with_idleness(observed.spec, idle))
    desired = _desired_state(observed)
    groups = groups_of(observed, now)
    if observed.deleting_since is not None:
        return _plan_deletion(observed, desired, groups, now)
    if desired.spec is None:
        return _only_status(observed, desired, groups, now)
    made = _plan_spec(observed, desired, desired.spec, groups, idle, now)
    waits = [one for one in (made.wake_after, ask_after(observed, desired.spec, idle)) if one is not None]
    return replace(made, wake_after=min(waits, default=None), watch_gateways=watches(desired.spec))


def _stands_back(observed: Observed) -> Event:
    return Event(
        "Warning",
        "StandsBack",
        f"the operator {observed.managed_by} manages this LLMDeployment, so {observed.operator} stands back. "
        f"To hand it over: kubectl annotate llm {observed.owner.name} {OPERATOR}={observed.operator} --overwrite",
    )


def _desired_state(observed: Observed) -> DesiredState:
    renderings = {one.revision: one.rendering for one in observed.revisions if one.rendering is not None}
    spec = observed.spec
    if spec is None:
        return DesiredState(None, (observed.spec_error,), "", renderings)
    image = spec.image or observed.default_image
    found = tuple(problems(spec, observed.owner.name, image, observed.model))
    if found:
        return DesiredState(spec, found, "", renderings)
    source = pod_source(spec, observed.owner.name, image, observed.restart)
    rendering = render(observed.owner, source)
    update = rendering.revision
    refused = refusals.rejected(observed, update)
    found = () if refused is None else (f"the API server refuses the pods: {refused[1].message}",)
    return DesiredState(spec, found, update, {update: rendering} | renderings, refused)


def _plan_spec(
    observed: Observed, desired: DesiredState, spec: LLMDeploymentSpec, groups: list[Group], idle: Idleness, now: float
) -> Plan:
    ordinals = observed.status.places
    health = {group.name: health_of(group, spec, ordinals, now) for group in groups}
    failed = frozenset(name for name, one in health.items() if one.phase == "Failed")
    target = choose_target(spec, desired.possible, frozenset(desired.renderings), observed.status, groups, failed, now)
    bounds = Bounds(
        replicas=spec.effective_replicas,
        max_surge=spec.rollout.max_surge,
        max_unavailable=spec.rollout.max_unavailable,
        min_ready=spec.rollout.min_ready_seconds,
    )
    moves = find_moves(observed, spec, groups, health, target, now)
    changes = next_changes(groups, health, target.revision, bounds, now, moves.groups)
    # New gateways become ready with a group of the new revision, which `replicas: 0` does not make.
    has_gateways = spec.gateway is not None and not observed.not_shared
    if has_gateways and not observed.gateways_current and bounds.replicas > 0:
        changes = hold_for_gateways(changes, health, target.revision)
    new_ordinals, created = next_ordinals(ordinals, groups, health, changes.create, target.revision, spec, now)
    writes = _writes(observed, desired, spec, groups, changes, created, target, moves, now)
    inputs = StatusInputs(
        desired.update,
        desired.problems,
        desired.refused is not None,
        target,
        bounds.fewest,
        refusals.obstacles(observed, writes.creates, writes.wanted, (*writes.drains, *writes.deletes), groups),
        missing_apis(observed.owner, spec, observed.apis) if _renderable(spec) else (),
        writes=bool(writes.applies),
        blocked=desired.refused is not None,
        idle=idle,
        moves=moves,
    )
    status = make_status(observed, inputs, groups, health, changes, new_ordinals, created, now)
    staying = writes.staying
    forget = refusals.forgotten(
        observed, (*writes.creates, *writes.wanted), (*writes.drains, *writes.deletes), desired.update
    )
    return Plan(
        status=status,
        forget=forget,
        labels=labels_to_set(staying),
        probes=_probes(observed, desired, groups, changes, created, target, now),
        creates=tuple(one for one in writes.creates if not refusals.waits(observed, ref_of(one), CREATION, now)),
        applies=writes.applies,
        drains=refusals.due_deletes(observed, writes.drains, now),
        deletes=refusals.due_deletes(observed, writes.deletes, now),
        events=events(observed.status, status),
        wake_after=_wake_after(observed, spec, groups, target, moves, status.places, forget, now),
        watch_requests=_groups_to_query(groups, changes, staying, target),
        watch_loading=tuple(
            group.name for group in staying if is_loading(group, health_of(group, spec, status.places, now))
        ),
    )


def _probes(
    observed: Observed,
    desired: DesiredState,
    groups: list[Group],
    changes: GroupChanges,
    created: list[GroupId],
    target: Target,
    now: float,
) -> tuple[Manifest, ...]:
    """StatefulSets that are tried without writing them, so that nothing drains for pods that are refused: those that
    were refused, and those of a new revision whose first group has to wait for room."""
    if desired.refused is not None:
        return refusals.probes(observed, desired.renderings[desired.update], *desired.refused, now)
    new = target.revision and all(group.id.revision != target.revision for group in groups)
    if not (new and changes.drain) or created:
        return ()
    first = GroupId(changes.drain[0].id.index, target.revision, 1)
    return tuple(desired.renderings[target.revision].sets_of(observed.owner, first))


@dataclass(frozen=True)
class _Writes:
    """The objects that the deployment should have, and the writes that this takes."""

    staying: list[Group]
    """Groups that neither drain nor begin to."""
    wanted: list[Manifest]
    applies: tuple[Manifest, ...]
    """The wanted ones that differ from the cluster, unless they were refused and have to wait."""
    creates: tuple[Manifest, ...]
    drains: tuple[Delete, ...]
    deletes: tuple[Delete, ...]


def _writes(
    observed: Observed,
    desired: DesiredState,
    spec: LLMDeploymentSpec,
    groups: list[Group],
    changes: GroupChanges,
    created: list[GroupId],
    target: Target,
    moves: Moves,
    now: float,
) -> _Writes:
    leaving = {group.name for group in changes.drain}
    staying = [group for group in groups if not group.draining and group.name not in leaving]
    in_use = [group.id.revision for group in groups] + [id.revision for id in created]
    current = current_revision(target, observed.status)
    kept = [revision for revision in (*in_use, desired.update, target.revision, current) if revision]
    singles = _singletons(observed, spec, moves.evictions) if _renderable(spec) else []
    wanted: list[Manifest] = [
        *singles,
        *owned_objects.desired_revisions(observed, desired.renderings, kept),
        *owned_objects.desired_sets(observed, staying, created, desired.renderings),
    ]
    deletes = [
        *_lost_pods(groups, spec.recovery.lost_pods == "Replace", now),
        *(owned_objects.to_delete(observed, singles) if singles else ()),
        *owned_objects.old_revisions(observed, kept, spec.rollout.revision_history_limit),
    ]
    shapes = [parallel_config(one.source.parallelism, one.source.accelerator) for one in desired.renderings.values()]
    several = spec.gateway is not None or any(shape.pods > 1 for shape in shapes)
    drains = owned_objects.drains_of([*changes.drain, *(group for group in groups if group.draining)])
    return _Writes(
        staying=staying,
        wanted=wanted,
        applies=tuple(owned_objects.to_apply(observed, wanted, now)),
        creates=() if observed.keys_known or not several else (keys_secret(observed.owner, observed.fresh_keys),),
        drains=tuple(drains),
        deletes=tuple(deletes),
    )


def _singletons(observed: Observed, spec: LLMDeploymentSpec, evictions: int) -> list[Manifest]:
    source = pod_source(spec, observed.owner.name, spec.image or observed.default_image)
    return singletons(
        observed.owner,
        spec,
        observed.apis,
        source,
        labelled=all_labelled(observed),
        shared=observed.shared,
        gateways_ready=observed.gateways_ready > 0 and not observed.not_shared,
        evictions=evictions,
    )


def _renderable(spec: LLMDeploymentSpec) -> bool:
    try:
        parallel_config(spec.parallelism, spec.accelerator)
    except ValueError:
        return False
    return True


def _plan_deletion(observed: Observed, desired: DesiredState, groups: list[Group], now: float) -> Plan:
    """All groups drain. The finalizer is removed when they are gone, or at a deadline."""
    assert observed.deleting_since is not None
    grace = max((termination_grace(one.source) for one in desired.renderings.values()), default=30)
    deadline = observed.deleting_since + grace + STUCK_SECONDS
    gone = all(group.stuck for group in groups)
    health = {group.name: Health("Draining") for group in groups}
    drains, deletes = owned_objects.drains_of(groups), _lost_pods(groups, True, now)
    inputs = StatusInputs(
        desired.update,
        desired.problems,
        desired.refused is not None,
        Target("", "", observed.status.rollout),
        0,
        refusals.obstacles(observed, (), (), (*drains, *deletes), ()),
    )
    status = make_status(observed, inputs, groups, health, GroupChanges(), observed.status.places, [], now)
    return Plan(
        status=status,
        drains=refusals.due_deletes(observed, drains, now),
        deletes=refusals.due_deletes(observed, deletes, now),
        events=events(observed.status, status),
        remove_finalizer=observed.has_finalizer and (gone or now >= deadline),
        wake_after=max(1.0, min(deadline - now, _WATCH_SECONDS * 5)),
        watch_requests=tuple(group.name for group in groups if group.has_served),
    )


def _only_status(observed: Observed, desired: DesiredState, groups: list[Group], now: float) -> Plan:
    """The spec cannot be decoded: no object is touched."""
    health = {group.name: Health("Ready" if group.ready else "Loading") for group in groups}
    target = Target("", "", observed.status.rollout)
    inputs = StatusInputs("", desired.problems, False, target, 0)
    status = make_status(observed, inputs, groups, health, GroupChanges(), observed.status.places, [], now)
    return Plan(status, events=events(observed.status, status))


def _lost_pods(groups: Iterable[Group], replace: bool, now: float) -> list[Delete]:
    """Pods on lost nodes. Those of draining groups are always removed, because nothing waits for them."""
    return [
        Delete(pod.ref, pod.uid, f"its node {pod.node} is lost", force=True)
        for group in groups
        if replace or group.draining
        for pod in group.pods
        if is_lost(pod, now)
    ]


def _groups_to_query(
    groups: list[Group], changes: GroupChanges, staying: list[Group], target: Target
) -> tuple[str, ...]:
    """Groups whose number of requests matters: those that drain, and those from which the next to drain is chosen."""
    going = {group.name for group in groups if group.draining} | {group.name for group in changes.drain}
    old = {group.name for group in staying if group.ready and target.revision and group.id.revision != target.revision}
    return tuple(sorted(going | old))


def _wake_after(
    observed: Observed,
    spec: LLMDeploymentSpec,
    groups: list[Group],
    target: Target,
    moves: Moves,
    ordinals: tuple[OrdinalStatus, ...],
    forget: tuple[ObjectRef, ...],
    now: float,
) -> float | None:
    """Seconds until the earliest deadline; None if there is none."""
    due = [when for when in (target.deadline, moves.due_at) if when is not None]
    restarts = {one.index: one.restarts for one in ordinals}
    for group in groups:
        health = health_of(group, spec, ordinals, now)
        if health.due_at is not None:
            due.append(health.due_at)
        if group.draining or is_loading(group, health):
            due.append(now + _WATCH_SECONDS)
        elif group.ready and group.ready_since is not None:
            due.append(group.ready_since + spec.rollout.min_ready_seconds)
            if restarts.get(group.id.index):
                due.append(group.ready_since + spec.recovery.stable_after_seconds)
        due += [pod.gone_by + STUCK_SECONDS for pod in group.pods if pod.gone_by is not None]
    due += [refusal.retry_at for ref, refusal in observed.refused.items() if ref not in forget]
    waits = [when - now for when in due if when > now]
    return min(waits) + 0.05 if waits else None
