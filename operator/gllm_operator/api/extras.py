"""spec.autoscaling, spec.security, spec.monitoring."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from gllm_operator.api.types import ApiObject, Free, Name, Rule


class Autoscaling(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self.minReplicas <= self.maxReplicas", "autoscaling.minReplicas must not be more than maxReplicas"),
        Rule(
            "(has(self.metrics) && size(self.metrics) > 0) != (has(self.triggers) && size(self.triggers) > 0)",
            "autoscaling takes either metrics (a HorizontalPodAutoscaler) or triggers (a KEDA ScaledObject): give one",
        ),
        Rule(
            "self.minReplicas > 0 || (has(self.triggers) && size(self.triggers) > 0)",
            "autoscaling.minReplicas 0 needs KEDA triggers: a HorizontalPodAutoscaler cannot scale to zero",
        ),
    )

    min_replicas: Annotated[int, Meta(ge=0, le=256)] = 1
    """Fewest groups."""
    max_replicas: Annotated[int, Meta(ge=1, le=256)]
    """Most groups."""
    metrics: Annotated[tuple[Free, ...], Meta(max_length=16)] = ()
    """MetricSpecs of autoscaling/v2. Pods metrics are averaged over masters, so over groups."""
    behavior: Free | None = None
    """HorizontalPodAutoscalerBehavior of autoscaling/v2."""
    triggers: Annotated[tuple[Free, ...], Meta(max_length=16)] = ()
    """Triggers of a KEDA ScaledObject."""


class Security(ApiObject, frozen=True, kw_only=True):
    network_policy: bool = True
    """Let in nothing but requests to the master's port and the group's own pods."""
    service_account_name: Name | None = None
    """ServiceAccount of the pods; without it one is made, whose token is not mounted."""
    run_as_user: Annotated[int, Meta(ge=1, le=2147483647)] = 10001
    """User of the containers; fsGroup is the same."""
    profile: Literal["Restricted", "Baseline"] = "Restricted"
    """Pod security standard. RDMA needs to lock memory, which Restricted does not allow."""


class Monitoring(ApiObject, frozen=True, kw_only=True):
    pod_monitor: bool = False
    """A PodMonitor for the masters' /metrics, where Prometheus' operator is installed."""
    interval_seconds: Annotated[int, Meta(ge=1, le=3600)] = 15
    """How often they are scraped."""
    labels: Annotated[dict[str, Annotated[str, Meta(max_length=63)]], Meta(max_length=16)] = field(default_factory=dict)
    """Labels of the PodMonitor, for Prometheus to select it by."""
