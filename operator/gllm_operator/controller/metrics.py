"""The operator's own metrics, for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gllm_operator.api.status import LLMDeploymentStatus

_PHASES = ("Pending", "Loading", "Ready", "Recovering", "Draining", "Broken", "BackingOff", "Failed")


class OperatorMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "gllm_operator_reconciles",
            "Passes over a deployment, by result.",
            ["result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "gllm_operator_reconcile_seconds",
            "Duration of a pass in seconds.",
            registry=self.registry,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
        )
        self.writes = Counter(
            "gllm_operator_writes", "Writes to the API server.", ["verb", "kind"], registry=self.registry
        )
        self.leads = Gauge("gllm_operator_leads", "1 if this operator is the leader, else 0.", registry=self.registry)
        self._deployments = Gauge("gllm_operator_deployments", "Number of LLMDeployments.", registry=self.registry)
        self._groups = Gauge("gllm_operator_groups", "Number of groups, by phase.", ["phase"], registry=self.registry)
        for result in ("ok", "stale", "error"):
            self.reconciles.labels(result)
        for phase in _PHASES:
            self._groups.labels(phase)

    def count(self, statuses: Mapping[object, LLMDeploymentStatus]) -> None:
        self._deployments.set(len(statuses))
        phases: Tally[str] = Tally(group.phase for status in statuses.values() for group in status.groups)
        for phase in _PHASES:
            self._groups.labels(phase).set(phases[phase])

    def render(self) -> bytes:
        return generate_latest(self.registry)
