"""The chart's dashboard uses only metrics and labels that the gateway and the operator export."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

from prometheus_client.metrics_core import Metric

from fixtures.kube_tools import ROOT
from gllm.gateway.shared.metrics import GatewayMetrics
from gllm.wire.messages import EngineStats, Hello, StageStats
from gllm_operator.controller.metrics import OperatorMetrics

FILE = ROOT / "charts/gllm/dashboards/gllm.json"
FROM_PROMETHEUS = {"namespace", "pod", "le"}
"""Labels that Prometheus adds, and the label of buckets."""


class Engine:
    stats = EngineStats(stages=[StageStats()])

    def __init__(self) -> None:
        fields = Hello.__struct_fields__
        self.hello: Any = type("Hello", (), dict.fromkeys(fields, 1))()


def exported() -> dict[str, set[str]]:
    """The labels of every series, by its name."""
    engine: Any = Engine()
    gateway, operator = GatewayMetrics("model", 4096, engine, ttft_target=1.0, tpot_target=0.1), OperatorMetrics()
    gateway.http("/v1/models", "GET", 200)
    operator.writes.labels("apply", "Service").inc()
    found: dict[str, set[str]] = {}
    for registry in (gateway.registry, operator.registry):
        families: list[Metric] = list(registry.collect())
        for family in families:
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> list[str]:
    board = json.loads(FILE.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return found + [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]


def test_every_query_names_a_metric_that_exists() -> None:
    series = exported()
    for query in queries():
        named = set(re.findall(r"gllm[:_]\w+", query))
        assert named, query
        assert named <= set(series), f"{named - set(series)} in {query}"


def test_every_label_exists() -> None:
    series = exported()
    for query in queries():
        labels = set().union(*(series[name] for name in re.findall(r"gllm[:_]\w+", query)))
        used = set(re.findall(r"(\w+)=~", query))
        for group in re.findall(r"by \(([^)]*)\)", query):
            used |= {label.strip() for label in group.split(",")}
        assert used <= labels | FROM_PROMETHEUS, f"{used - labels} in {query}"


def test_the_file_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_dashboard", ROOT / "charts/make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fix = "run: python charts/make_dashboard.py > charts/gllm/dashboards/gllm.json"
    assert json.loads(FILE.read_text()) == module.dashboard(), fix
