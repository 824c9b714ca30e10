"""spec.gateway: the Service leads to the gateways when they are ready, and groups wait for new gateways."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.api.extras import Monitoring
from gllm_operator.api.types import KeyRef
from gllm_operator.build.integrations import pod_monitors
from gllm_operator.local.manifest import objects_of
from gllm_operator.names import Owner
from gllm_operator.objects import Object

MASTERS = {"gllm.dev/deployment": "smol", "gllm.dev/role": "master", "gllm.dev/serving": "true"}
GATEWAYS = {"gllm.dev/gateway": "smol"}


def harness_with(**changes: Any) -> OperatorHarness:
    return OperatorHarness(SPEC | {"parallelism": {"pipeline": 1}, "gateway": {"replicas": 2}} | changes)


def passes(harness: OperatorHarness, count: int = 25) -> None:
    """Let some seconds pass, not as many as a deadline."""
    harness.world.eager = True
    for _ in range(count):
        harness.run_pass()
        harness.world.step()
        harness.now += 1


def gateways(harness: OperatorHarness) -> Object:
    (found,) = harness.api.of_kind("Deployment")
    return found


def selector(harness: OperatorHarness) -> dict[str, str]:
    service = harness.api.objects["v1", "Service", "default", "smol"]
    found: dict[str, str] = service["spec"]["selector"]
    return found


def report(harness: OperatorHarness, ready: int, updated: int = 2) -> None:
    """What the Deployment controller writes."""
    one = gateways(harness)
    status = {
        "observedGeneration": one["metadata"].get("generation"),
        "replicas": 2,
        "readyReplicas": ready,
        "updatedReplicas": updated,
    }
    harness.api.edit(one, lambda found: found.update(status=status))


def test_the_service_leads_to_gateways_that_are_ready() -> None:
    harness = harness_with()
    harness.run_until_quiet()
    assert selector(harness) == MASTERS
    assert harness.status.gateways == "0/2"
    (master,) = harness.sets()
    env = {one["name"]: one for one in master["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["GLLM_ENGINE_PORT"]["value"] == "29600"
    assert "GLLM_KEYS_FILE" in env, "also in a group of one pod"
    assert harness.api.of_kind("Secret")
    report(harness, ready=1)
    harness.run_until_quiet()
    assert selector(harness) == GATEWAYS
    assert harness.status.gateways == "1/2"
    report(harness, ready=0)
    harness.run_until_quiet()
    assert selector(harness) == MASTERS, "the groups' own gateways still serve"


def test_a_rollout_waits_for_the_new_gateways() -> None:
    harness = harness_with()
    harness.run_until_quiet()
    report(harness, ready=2)
    harness.run_until_quiet()
    before = harness.status.current_revision
    harness.edit(lambda one: one.update(image="gllm:2"))
    passes(harness)
    assert gateways(harness)["spec"]["template"]["spec"]["containers"][0]["image"] == "gllm:2"
    # The Deployment controller has not even seen the new template yet.
    assert {group.phase for group in harness.status.groups} == {"Ready"}
    assert len(harness.status.groups) == 2, "the old group serves the old gateways"
    report(harness, ready=2, updated=1)
    passes(harness)
    assert len(harness.status.groups) == 2
    report(harness, ready=2)
    passes(harness)
    assert len(harness.status.groups) == 1
    assert harness.status.current_revision not in ("", before)


def test_zero_replicas_do_not_wait_for_gateways() -> None:
    """They would wait for ever: new gateways are ready when a group of the new revision serves."""
    harness = harness_with(gateway=None)
    harness.run_until_quiet()
    harness.edit(lambda one: one.update(gateway={"replicas": 2}, replicas=0))
    passes(harness)
    assert not harness.sets()


def test_scaling_does_not_wait_for_gateways() -> None:
    harness = harness_with(replicas=2)
    harness.run_until_quiet()
    harness.edit(lambda one: one.update(replicas=1))
    harness.run_until_quiet()
    assert harness.status.ready == "1/1"


def test_gateways_are_added_and_removed() -> None:
    harness = harness_with(gateway=None)
    harness.run_until_quiet()
    assert harness.api.of_kind("Deployment") == []
    assert not harness.api.of_kind("Secret")
    before = harness.status.current_revision
    harness.edit(lambda one: one.update(gateway={"replicas": 2}))
    passes(harness)
    assert len(harness.status.groups) == 2
    report(harness, ready=2)
    harness.run_until_quiet()
    assert selector(harness) == GATEWAYS
    assert len(harness.status.groups) == 1
    harness.edit(lambda one: one.pop("gateway"))
    harness.run_until_quiet()
    assert harness.api.of_kind("Deployment") == []
    assert selector(harness) == MASTERS
    assert harness.status.gateways == ""
    assert harness.status.current_revision == before
    names = {one["metadata"]["name"] for kind in ("Service", "NetworkPolicy") for one in harness.api.of_kind(kind)}
    assert names == {"smol", "smol-pods"}


def test_prometheus_scrapes_the_gateways_too() -> None:
    monitoring = Monitoring(pod_monitor=True, labels={"team": "a"})
    owner = Owner("default", "smol", "1")
    (masters,) = pod_monitors(owner, monitoring, None, gateways=False)
    assert masters["spec"]["selector"]["matchLabels"] == {key: MASTERS[key] for key in list(MASTERS)[:2]}
    _, scraped = pod_monitors(owner, monitoring, KeyRef(name="key", key="text"), gateways=True)
    assert scraped["metadata"]["name"] == "smol-gateway"
    assert scraped["metadata"]["labels"]["team"] == "a"
    assert scraped["spec"]["selector"]["matchLabels"] == GATEWAYS
    (endpoint,) = scraped["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["authorization"]["credentials"]["name"]) == ("http", "key")


@pytest.mark.parametrize("port", [8000, 29500, 29502])
def test_a_port_that_is_in_use_is_refused(port: int) -> None:
    deployment = {
        "apiVersion": "gllm.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "smol", "namespace": "default", "uid": "1", "generation": 1, "finalizers": []},
        "spec": SPEC | {"gateway": {"enginePort": port}},
    }
    with pytest.raises(ValueError, match=r"gateway\.enginePort"):
        objects_of(deployment, keys="keys")
