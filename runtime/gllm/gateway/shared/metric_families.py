"""The Prometheus series of one process, whose models share them: each model has its own label values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gllm.engine.client.engines import RemoteEngines


class MetricFamilies:
    """Creates each family once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._engines: EnginesCollector | None = None

    def counter(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        if name not in self._counters:
            self._counters[name] = Counter(f"gllm:{name}", text, labels, registry=self.registry)
        return self._counters[name]

    def histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        """All models have the buckets of the first."""
        if name not in self._histograms:
            self._histograms[name] = Histogram(f"gllm:{name}", text, labels, registry=self.registry, buckets=buckets)
        return self._histograms[name]

    def add_engines(self, model_name: str, engines: RemoteEngines) -> None:
        """Show the engines of a model."""
        if self._engines is None:
            self._engines = EnginesCollector()
            self.registry.register(self._engines)
        self._engines.models[model_name] = engines


class EnginesCollector(Collector):
    """What a gateway in front of several engines knows of them. The groups export the figures of the engines."""

    def __init__(self) -> None:
        self.models: dict[str, RemoteEngines] = {}
        """The engines of each model, by its name."""

    def collect(self) -> Iterator[Metric]:
        labels = ("address", "model_name")
        up = GaugeMetricFamily("gllm:gateway_engine_up", "1 if the engine at this address serves.", labels=labels)
        live = GaugeMetricFamily("gllm:gateway_engine_requests", "Requests that the engine has.", labels=labels)
        moved = CounterMetricFamily(
            "gllm:gateway_resubmitted", "Requests whose engine was lost.", labels=("model_name",)
        )
        for model, engines in self.models.items():
            for address, requests in engines.known().items():
                up.add_metric((address, model), float(requests is not None))
                live.add_metric((address, model), float(requests or 0))
            moved.add_metric((model,), engines.resubmitted)
        yield from (up, live, moved)
