"""spec.monitoring.tracing: how pods send OpenTelemetry traces, and how they may reach the collector."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from gllm_operator.api.extras import Tracing
from gllm_operator.names import Owner


def tracing_args(tracing: Tracing | None) -> list[str]:
    """Return arguments of `gllm serve` and `gllm gateway`."""
    return [] if tracing is None else ["--otlp-endpoint", tracing.endpoint]


def tracing_env(owner: Owner, tracing: Tracing | None) -> list[dict[str, Any]]:
    """Return the standard variables. They refer to POD_NAME and POD_NAMESPACE, which must come before them."""
    if tracing is None:
        return []
    values = {
        "OTEL_SERVICE_NAME": owner.name,
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME)",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": f"{tracing.sample_ratio:g}",
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def tracing_egress(tracing: Tracing | None) -> list[dict[str, Any]]:
    """Return the egress rules of a NetworkPolicy: the collector's port, wherever it is."""
    if tracing is None:
        return []
    url = urlsplit(tracing.endpoint)
    return [{"ports": [{"protocol": "TCP", "port": url.port or (443 if url.scheme == "https" else 80)}]}]
