"""gateway.idleSeconds: no groups while the gateways have no requests. The next request starts one, and a load all.

One group at first, as an activation by Knative or KEDA, because a single request must not start every accelerator of
spec.replicas. Requests that go on when it serves start the others. spec.replicas keeps its value, which autoscalers,
people and GitOps own: idleness only overrides it, as suspend does.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.objects import seconds_of
from gllm_operator.plan.observed import Observed

_ASK_IDLE_SECONDS = 2.0
"""How often the gateways are asked whether requests wait or go on, while groups are held back."""
_ASK_AGAIN_SECONDS = 10.0
"""How soon gateways that did not answer, or were not asked yet, are asked again while groups serve."""
_ALONE_SECONDS = 10.0
"""How long the first group serves alone at least: in this time the requests end that waited for it."""
_BUSY_SECONDS = 2.0 * _ASK_IDLE_SECONDS
"""A gateway with a request in so many seconds has load: it was asked at least once in this time."""


@dataclass(frozen=True, slots=True)
class Idleness:
    idle: bool = False
    """Whether there should be no groups."""
    waking: bool = False
    """Whether there should be one group only, the first after an idle time."""


NOT_IDLE = Idleness()


def watches(spec: LLMDeploymentSpec) -> bool:
    """Whether the next plan needs to know how long the gateways have had no requests."""
    return spec.gateway is not None and spec.gateway.idle_seconds > 0 and not spec.suspend


def is_idle(observed: Observed, spec: LLMDeploymentSpec) -> bool:
    """Whether there should be no groups, because no request waits for one.

    An unknown answer changes nothing. A rollout is finished first, because idleness would count as its success.
    """
    if spec.gateway is None or not watches(spec):
        return False
    before, known = observed.status, [one for one in observed.gateways_idle if one is not None]
    if before.idle or (spec.replicas == 0 and before.replicas == 0):
        return 0.0 not in known
    settled = before.rollout is not None and before.rollout.complete and before.ready_replicas > 0
    settled = settled and before.observed_generation == observed.generation
    all_known = len(known) == len(observed.gateways_idle) > 0 and observed.gateways_ready > 0
    return settled and all_known and min(known) >= spec.gateway.idle_seconds


def idleness(observed: Observed, spec: LLMDeploymentSpec, now: float) -> Idleness:
    before = observed.status
    if is_idle(observed, spec):
        return Idleness(idle=True)
    woken = watches(spec) and spec.replicas > 1 and (before.idle or before.waking)
    same_spec = before.observed_generation == observed.generation
    return Idleness(waking=woken and same_spec and not _has_load(observed, now))


def _has_load(observed: Observed, now: float) -> bool:
    """Whether requests go on although a group has served for a while."""
    served = [seconds_of(one.ready_at) for one in observed.status.groups if one.phase == "Ready"]
    alone = max((now - since for since in served if since is not None), default=0.0)
    idle = [one for one in observed.gateways_idle if one is not None]
    return alone >= _ALONE_SECONDS and bool(idle) and min(idle) < _BUSY_SECONDS


def with_idleness(spec: LLMDeploymentSpec, state: Idleness) -> LLMDeploymentSpec:
    """Replace the number of groups: none while idle, one while waking, and at least one, which requests need."""
    if not watches(spec):
        return spec
    replicas = 0 if state.idle else 1 if state.waking else max(1, spec.replicas)
    return msgspec.structs.replace(spec, replicas=replicas)


def ask_after(observed: Observed, spec: LLMDeploymentSpec, state: Idleness) -> float | None:
    """Seconds until the gateways have to be asked again; None: never."""
    if spec.gateway is None or not watches(spec):
        return None
    if state.idle or state.waking:
        return _ASK_IDLE_SECONDS
    known = [one for one in observed.gateways_idle if one is not None]
    if not known or len(known) < len(observed.gateways_idle):
        return _ASK_AGAIN_SECONDS
    return max(_ASK_IDLE_SECONDS, spec.gateway.idle_seconds - min(known))
