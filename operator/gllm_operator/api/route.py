"""spec.route: the deployment behind a Gateway of the Gateway API, which owns TLS and the hosts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from gllm_operator.api.types import ApiObject, Name, Port, Rule

Weight = Annotated[int, Meta(ge=0, le=1000000)]
Backend = Literal["Service", "InferencePool"]


class ParentRef(ApiObject, frozen=True, kw_only=True):
    name: Name
    """The name of the Gateway."""
    namespace: Name | None = None
    """The namespace of the Gateway. Defaults to that of the LLMDeployment."""
    section_name: Name | None = None
    """The listener of the Gateway. Defaults to all listeners that accept the route."""
    port: Port | None = None
    """The port of the listeners. Defaults to all ports."""


class Canary(ApiObject, frozen=True, kw_only=True):
    name: Name
    """The name of the other LLMDeployment, in the same namespace."""
    weight: Weight
    """Its share of the requests, in relation to route.weight and the other canaries. 0 keeps it out."""
    service_port: Port = 80
    """Its server.servicePort."""
    backend: Backend = "Service"
    """Whether requests go to its Service, or to its InferencePool, which it has if it has a route.endpointPicker."""


class EndpointPicker(ApiObject, frozen=True, kw_only=True):
    name: Name
    """The name of the Service of the endpoint picker, in the same namespace."""
    port: Port = 9002
    """The port of that Service."""
    failure_mode: Literal["FailClose", "FailOpen"] = "FailClose"
    """What the Gateway does while the endpoint picker does not answer: refuse requests, or choose a group itself."""


class Route(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.weight > 0 || (has(self.canaries) && self.canaries.exists(c, c.weight > 0))",
            "route.weight and the weights of all route.canaries are 0, so no request could be served: raise one",
        ),
    )

    parent_refs: Annotated[tuple[ParentRef, ...], Meta(min_length=1, max_length=16)]
    """The Gateways that serve the route."""
    hostnames: Annotated[
        tuple[
            Annotated[
                str,
                Meta(
                    max_length=253, pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
                ),
            ],
            ...,
        ],
        Meta(max_length=16),
    ] = ()
    """The hosts whose requests the route takes. Defaults to those of the Gateway's listeners."""
    paths: Annotated[
        tuple[Annotated[str, Meta(max_length=1024, pattern=r"^/")], ...], Meta(min_length=1, max_length=8)
    ] = ("/v1",)
    """Prefixes of the paths that the route takes. Others, such as /metrics, stay inside the cluster."""
    request_timeout_seconds: Annotated[int, Meta(ge=0, le=86400)] | None = None
    """The Gateway's time limit for a request, until the end of its stream; 0: none. Defaults to that of the Gateway."""
    weight: Weight = 100
    """The share of the requests that this LLMDeployment gets, in relation to its canaries."""
    canaries: Annotated[tuple[Canary, ...], Meta(max_length=15)] = ()
    """Other LLMDeployments that get a share of the requests."""
    endpoint_picker: EndpointPicker | None = None
    """The endpoint picker of the Gateway API Inference Extension that chooses a group for each request. The operator
    then creates an InferencePool of the masters, and the route leads to it. Without it, to the Service."""
