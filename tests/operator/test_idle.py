"""gateway.idleSeconds: groups end when the gateways have no requests, and start again when one waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from fixtures.operator_harness import SPEC, OperatorHarness
from fixtures.ports import free_port
from gllm_operator.controller.masters import ask_gateways, parse_idle
from gllm_operator.controller.reconcile import _gateways
from gllm_operator.kube.cache import deployment_of
from gllm_operator.local.manifest import objects_of
from gllm_operator.names import MANAGED_BY, MANAGER
from gllm_operator.objects import Object, ObjectKey


def harness_with(replicas: int = 1, **changes: Any) -> OperatorHarness:
    spec = SPEC | {"parallelism": {"pipeline": 1}, "replicas": replicas}
    return OperatorHarness(spec | {"gateway": {"replicas": 1, "idleSeconds": 60}} | changes)


def passes(harness: OperatorHarness, count: int = 25) -> float | None:
    harness.world.eager = True
    wait = None
    for _ in range(count):
        wait = harness.run_pass()
        harness.world.step()
        harness.now += 1
    return wait


def serving(replicas: int = 1, **changes: Any) -> OperatorHarness:
    """A deployment whose groups and gateway are ready, with a request."""
    harness = harness_with(replicas, **changes)
    harness.gateways_idle = (0.0,)
    passes(harness)
    (one,) = harness.api.of_kind("Deployment")
    status = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    harness.api.edit(one, lambda found: found.update(status=status))
    passes(harness)
    assert harness.status.ready_replicas == max(1, replicas)
    return harness


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_groups_end_without_requests_and_one_starts_with_the_next(replicas: int) -> None:
    harness = serving(replicas)
    harness.gateways_idle = (59.0,)
    assert passes(harness) == 2.0, "asked again when the time is over"
    assert not harness.status.idle
    harness.gateways_idle = (60.0,)
    assert passes(harness) == 2.0
    assert harness.status.idle
    assert harness.sets() == []
    assert harness.condition("Ready") == ("True", "Idle")
    assert harness.api.of_kind("Deployment"), "the gateways stay"
    harness.gateways_idle = (0.0,)
    passes(harness, 6)
    assert not harness.status.idle
    assert harness.status.waking == (replicas == 2)
    assert harness.status.ready == "1/1"
    assert harness.condition("Ready") == ("True", "AllGroupsReady")
    assert harness.deployment is not None
    assert harness.deployment["spec"]["replicas"] == replicas, "it is not the operator's field"


def woken(idle_seconds: float) -> OperatorHarness:
    """The first of three groups serves after an idle time; its gateway has had no request for `idle_seconds`."""
    harness = serving(3)
    harness.gateways_idle = (60.0,)
    passes(harness)
    assert harness.status.idle
    harness.gateways_idle = (0.0,)
    passes(harness, 6)
    harness.gateways_idle = (idle_seconds,)
    return harness


def test_requests_that_go_on_start_the_other_groups() -> None:
    harness = woken(0.5)
    passes(harness, 5)
    assert len(harness.sets()) == 1, "the requests that waited may be all"
    passes(harness, 20)
    assert harness.status.ready == "3/3"
    assert not harness.status.waking
    harness.gateways_idle = (59.0,)
    passes(harness)
    assert harness.status.ready == "3/3", "they stay until all end"


def test_a_single_request_starts_one_group() -> None:
    harness = woken(30.0)
    assert passes(harness) == 2.0
    assert harness.status.ready == "1/1"
    assert "the others of spec.replicas start" in next(
        one.message for one in harness.status.conditions if one.type == "Ready"
    )
    harness.start_operator()
    passes(harness)
    assert harness.status.ready == "1/1", "it is in the status, not in the operator's memory"
    harness.gateways_idle = (60.0,)
    passes(harness)
    assert harness.status.idle
    assert harness.sets() == []
    assert not harness.status.waking


def test_an_edit_asks_for_all_groups() -> None:
    harness = woken(30.0)
    passes(harness)
    harness.edit(lambda one: one.update(replicas=2))
    passes(harness)
    assert harness.status.ready == "2/2"


def test_no_groups_start_before_the_first_request() -> None:
    harness = harness_with(replicas=0)
    harness.gateways_idle = (1.0,)
    passes(harness)
    assert harness.status.idle
    assert harness.sets() == []
    harness.start_operator()  # One without memory has not asked the gateways yet.
    passes(harness, 1)
    assert harness.sets() == []
    harness.gateways_idle = (None, 0.0)
    passes(harness)
    assert len(harness.sets()) == 1, "one waiting request is enough"


@pytest.mark.parametrize("answers", [(), (None,), (500.0, None), (500.0, 3.0)])
def test_groups_stay_while_requests_are_possible(answers: tuple[float | None, ...]) -> None:
    harness = serving()
    harness.gateways_idle = answers
    passes(harness)
    assert not harness.status.idle
    assert len(harness.sets()) == 1


def test_a_busy_deployment_is_asked_seldom() -> None:
    harness = serving()
    harness.gateways_idle = (10.0,)
    assert passes(harness) == pytest.approx(50.0)


def test_suspended_and_scaled_to_zero_without_idle_seconds_stay() -> None:
    harness = serving()
    harness.edit(lambda one: one.update(suspend=True))
    passes(harness)
    assert harness.sets() == []
    assert not harness.status.idle
    assert harness.condition("Ready") == ("True", "Suspended")
    harness.edit(lambda one: one.update(suspend=False, replicas=0, gateway={"replicas": 1}))
    passes(harness)
    assert harness.sets() == []
    assert harness.condition("Ready") == ("True", "NoGroups")


def test_a_rollout_is_finished_first() -> None:
    harness = serving()
    harness.gateways_idle = (500.0,)
    harness.world.eager = False  # New groups do not get ready.
    harness.edit(lambda one: one.update(image="gllm:2"))
    for _ in range(5):
        harness.run_pass()
        harness.now += 1
    assert not harness.status.idle
    assert len(harness.sets()) == 2


def test_an_autoscaler_is_refused_beside_it() -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 3, "metrics": [{"type": "Pods"}]}
    harness = harness_with(autoscaling=scaling)
    assert harness.deployment is not None
    with pytest.raises(ValueError, match=r"autoscaling and gateway\.idleSeconds"):
        objects_of(harness.deployment, keys="")


def test_an_endpoint_picker_is_refused_beside_it() -> None:
    """Its requests go to masters, so busy groups would end."""
    route = {"parentRefs": [{"name": "public"}], "endpointPicker": {"name": "picker"}}
    for idle_seconds, words in ((60, "past the gateways"), (0, "")):
        harness = harness_with(route=route, gateway={"idleSeconds": idle_seconds})
        passes(harness, 2)
        valid = next(one for one in harness.status.conditions if one.type == "SpecValid")
        assert (valid.status == "True") == (idle_seconds == 0), valid.message
        assert words in valid.message


def gateway_pod(harness: OperatorHarness, port: int) -> Object:
    (one,) = harness.api.of_kind("Deployment")
    template = one["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert labels[MANAGED_BY] == MANAGER, "the operator watches such pods"
    assert "--wait-for-engine" in template["spec"]["containers"][0]["args"]
    container = template["spec"]["containers"][0] | {"ports": [{"name": "http", "containerPort": port}]}
    metadata = {"name": "smol-gateway-x", "namespace": "default", "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}, "status": {"podIP": "127.0.0.1"}}


def test_gateway_pods_are_found_and_asked() -> None:
    harness = harness_with()
    passes(harness, 3)
    port = free_port()
    pod = gateway_pod(harness, port)
    assert deployment_of(pod) == ObjectKey("default", "smol")
    assert _gateways([pod, *harness.sets()]) == {"smol-gateway-x": ("127.0.0.1", port)}
    assert _gateways([pod | {"status": {}}]) == {}

    async def ask() -> tuple[float | None, ...]:
        async def ready(request: web.Request) -> web.Response:
            models = {"tiny": {"ready": False, "idle_seconds": 4.5}, "other": {"ready": True, "idle_seconds": 0.0}}
            return web.json_response({"status": "unavailable", "models": models}, status=503)

        application = web.Application()
        application.router.add_get("/ready", ready)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            return await ask_gateways(_gateways([pod]) | {"gone": ("127.0.0.1", free_port())}, "tiny")
        finally:
            await runner.cleanup()

    assert asyncio.run(ask()) == (4.5, None)
    assert parse_idle('{"status": "ok"}', "tiny") is None
    assert parse_idle('{"status": "ok", "models": {}}', "tiny") is None
    assert parse_idle('{"status": "ok", "idle_seconds": 7}', "tiny") == 7.0, "an older gateway"
    assert parse_idle("nonsense", "tiny") is None
