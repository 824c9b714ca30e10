"""spec.autoscaling, spec.objectMeta, spec.security, spec.monitoring."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from gllm_operator.api.types import ApiObject, Name, RawObject, Rule


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
    """The minimum number of groups."""
    max_replicas: Annotated[int, Meta(ge=1, le=256)]
    """The maximum number of groups."""
    metrics: Annotated[tuple[RawObject, ...], Meta(max_length=16)] = ()
    """MetricSpecs of autoscaling/v2. Pods metrics are averaged over the masters, that is, over the groups."""
    behavior: RawObject | None = None
    """The HorizontalPodAutoscalerBehavior of autoscaling/v2."""
    triggers: Annotated[tuple[RawObject, ...], Meta(max_length=16)] = ()
    """Triggers of a KEDA ScaledObject."""


class ObjectMeta(ApiObject, frozen=True, kw_only=True):
    labels: Annotated[dict[str, Annotated[str, Meta(max_length=63)]], Meta(max_length=64)] = field(default_factory=dict)
    """Labels of these objects. Those that the operator sets itself take precedence."""
    annotations: Annotated[dict[str, Annotated[str, Meta(max_length=65536)]], Meta(max_length=64)] = field(
        default_factory=dict
    )
    """Annotations of these objects."""


class Security(ApiObject, frozen=True, kw_only=True):
    network_policy: bool = True
    """Whether to create a NetworkPolicy. It allows requests to the master's port and traffic among the deployment's own
    pods, and nothing else in."""
    service_account_name: Name | None = None
    """The name of an existing ServiceAccount for the pods. By default the operator creates one; its token is not
    mounted."""
    run_as_user: Annotated[int, Meta(ge=1, le=2147483647)] = 10001
    """The user and group id of the containers, and the fsGroup of the pods."""
    profile: Literal["Restricted", "Baseline"] = "Restricted"
    """The pod security standard that the pods satisfy. RDMA locks memory, which Restricted forbids."""


class Tracing(ApiObject, frozen=True, kw_only=True):
    endpoint: Annotated[
        str, Meta(max_length=512, pattern=r"^https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:[1-9][0-9]{0,4})?(/[^\s?#]*)?$")
    ]
    """The collector, for OTLP over HTTP, such as http://collector.monitoring:4318. The NetworkPolicy allows its
    port."""
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The share of requests that are traced, of those without a trace of their client. Others are traced as their
    client's span is."""


class Monitoring(ApiObject, frozen=True, kw_only=True):
    pod_monitor: bool = False
    """Whether to create PodMonitors for the /metrics of masters and gateways, if Prometheus' operator is installed."""
    interval_seconds: Annotated[int, Meta(ge=1, le=3600)] = 15
    """The scrape interval in seconds."""
    labels: Annotated[dict[str, Annotated[str, Meta(max_length=63)]], Meta(max_length=16)] = field(default_factory=dict)
    """Labels of the PodMonitor, by which Prometheus selects it."""
    tracing: Tracing | None = None
    """OpenTelemetry traces of masters and gateways. Without it there are none."""
