"""gateway.idleSeconds: no groups while the gateways have no requests. The next request starts them.

spec.replicas keeps its value, which autoscalers, people and GitOps own: idleness only overrides it, as suspend does.
"""

from __future__ import annotations

import msgspec

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.plan.observed import Observed

_ASK_IDLE_SECONDS = 2.0
"""How often the gateways are asked whether a request waits, while there are no groups."""
_ASK_AGAIN_SECONDS = 10.0
"""How soon gateways that did not answer, or were not asked yet, are asked again while groups serve."""


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


def with_idleness(spec: LLMDeploymentSpec, idle: bool) -> LLMDeploymentSpec:
    """Replace the number of groups: none while idle, and otherwise at least one, which the requests need."""
    return msgspec.structs.replace(spec, replicas=0 if idle else max(1, spec.replicas)) if watches(spec) else spec


def ask_after(observed: Observed, spec: LLMDeploymentSpec, idle: bool) -> float | None:
    """Seconds until the gateways have to be asked again; None: never."""
    if spec.gateway is None or not watches(spec):
        return None
    if idle:
        return _ASK_IDLE_SECONDS
    known = [one for one in observed.gateways_idle if one is not None]
    if not known or len(known) < len(observed.gateways_idle):
        return _ASK_AGAIN_SECONDS
    return max(_ASK_IDLE_SECONDS, spec.gateway.idle_seconds - min(known))
