"""The HTTPRoute of the Gateway API, and the InferencePool of its Inference Extension."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import yaml

from gllm_operator.api.route import Backend, EndpointPicker, ParentRef, Route
from gllm_operator.api.server import Server
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.names import PREFIX, Owner, masters_selector, metadata

GATEWAY_API = "gateway.networking.k8s.io/v1"
INFERENCE_API = "inference.networking.k8s.io/v1"
PICKER_ANNOTATION = PREFIX + "endpoint-picker-config"
"""Annotation of the InferencePool: the configuration with which its endpoint picker reads gLLM's metrics."""

PICKER_METRICS = {
    "queuedRequestsSpec": "gllm:num_requests_waiting",
    "runningRequestsSpec": "gllm:num_requests_running",
    "kvUsageSpec": "gllm:kv_cache_usage_perc",
    "cacheInfoSpec": "gllm:cache_config_info",
}
"""The metrics that an endpoint picker asks of each master, by the names of its configuration."""


def has_route(spec: LLMDeploymentSpec, apis: Collection[str]) -> bool:
    return spec.route is not None and GATEWAY_API in apis


def route_objects(owner: Owner, route: Route, server: Server) -> list[dict[str, Any]]:
    objects = [http_route(owner, route, server)]
    if route.endpoint_picker is not None:
        objects.append(inference_pool(owner, route.endpoint_picker, server))
    return objects


def http_route(owner: Owner, route: Route, server: Server) -> dict[str, Any]:
    own: Backend = "Service" if route.endpoint_picker is None else "InferencePool"
    backends = [_backend(owner.name, own, server.service_port, route.weight)]
    backends += [_backend(one.name, one.backend, one.service_port, one.weight) for one in route.canaries]
    rule: dict[str, Any] = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in route.paths],
        "backendRefs": backends,
    }
    if route.request_timeout_seconds is not None:
        rule["timeouts"] = {"request": f"{route.request_timeout_seconds}s"}
    return {
        "apiVersion": GATEWAY_API,
        "kind": "HTTPRoute",
        "metadata": metadata(owner, owner.name),
        "spec": {
            "parentRefs": [_parent(one) for one in route.parent_refs],
            **({"hostnames": list(route.hostnames)} if route.hostnames else {}),
            "rules": [rule],
        },
    }


def inference_pool(owner: Owner, picker: EndpointPicker, server: Server) -> dict[str, Any]:
    """The masters as a pool. It may contain pods that are not ready; the endpoint picker leaves those out."""
    about = metadata(owner, owner.name)
    return {
        "apiVersion": INFERENCE_API,
        "kind": "InferencePool",
        "metadata": about | {"annotations": about.get("annotations", {}) | {PICKER_ANNOTATION: picker_config()}},
        "spec": {
            "selector": {"matchLabels": masters_selector(owner.name)},
            "targetPorts": [{"number": server.port}],
            "endpointPickerRef": {
                "group": "",
                "kind": "Service",
                "name": picker.name,
                "port": {"number": picker.port},
                "failureMode": picker.failure_mode,
            },
        },
    }


def picker_config() -> str:
    """An EndpointPickerConfig: short queues, free KV cache and known prefixes are preferred."""
    scorers = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3}
    source, extractor = "metrics-data-source", "core-metrics-extractor"
    config = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            *({"type": name} for name in scorers),
            {"type": source},
            {
                "type": extractor,
                "parameters": {"defaultEngine": "gllm", "engineConfigs": [{"name": "gllm", **PICKER_METRICS}]},
            },
        ],
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": name, "weight": weight} for name, weight in scorers.items()]}
        ],
        "dataLayer": {"sources": [{"pluginRef": source, "extractors": [{"pluginRef": extractor}]}]},
    }
    return yaml.safe_dump(config, sort_keys=False)


def _backend(name: str, kind: Backend, port: int, weight: int) -> dict[str, Any]:
    if kind == "InferencePool":
        return {"group": INFERENCE_API.partition("/")[0], "kind": kind, "name": name, "weight": weight}
    return {"kind": kind, "name": name, "port": port, "weight": weight}


def _parent(parent: ParentRef) -> dict[str, Any]:
    found = {
        "group": GATEWAY_API.partition("/")[0],
        "kind": "Gateway",
        "name": parent.name,
        "namespace": parent.namespace,
        "sectionName": parent.section_name,
        "port": parent.port,
    }
    return {key: value for key, value in found.items() if value is not None}
