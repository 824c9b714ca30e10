"""The objects of spec.route, the metric names that an endpoint picker reads, and what the status says."""

from __future__ import annotations

from typing import Any

import yaml

from fixtures.operator_harness import SPEC, OperatorHarness
from gllm.gateway.shared.metrics import GatewayMetrics
from gllm.wire.messages import EngineStats, Hello
from gllm_operator.build.route import PICKER_METRICS, picker_config

ROUTE: dict[str, Any] = {"parentRefs": [{"name": "public"}]}


class _Engine:
    stats = EngineStats()

    def __init__(self) -> None:
        self.hello: Any = type("Hello", (), dict.fromkeys(Hello.__struct_fields__, 1))()


def test_the_metrics_of_the_picker_exist() -> None:
    engine: Any = _Engine()
    families = {family.name: family for family in GatewayMetrics("model", 4096, engine).registry.collect()}
    assert set(PICKER_METRICS.values()) <= set(families)
    labels = families[PICKER_METRICS["cacheInfoSpec"]].samples[0].labels
    assert {"block_size", "num_gpu_blocks"} <= set(labels)


def test_the_picker_config_refers_only_to_its_plugins() -> None:
    config = yaml.safe_load(picker_config())
    plugins = {one["type"] for one in config["plugins"]}
    (profile,) = config["schedulingProfiles"]
    (source,) = config["dataLayer"]["sources"]
    named = [*profile["plugins"], source, *source["extractors"]]
    assert {one["pluginRef"] for one in named} == plugins
    (engine,) = next(one for one in config["plugins"] if one["type"] == "core-metrics-extractor")["parameters"][
        "engineConfigs"
    ]
    assert engine == {"name": "gllm", **PICKER_METRICS}


def test_a_missing_gateway_api_is_told() -> None:
    harness = OperatorHarness(SPEC | {"route": ROUTE})
    harness.run_until_quiet()
    assert (harness.status.ready, harness.status.reason) == ("1/1", "ApiMissing")
    assert harness.condition("Integrated") == ("False", "ApiMissing")
    assert harness.condition("Ready") == ("True", "AllGroupsReady")
    assert all(one.type != "Routed" for one in harness.status.conditions)
