"""spec.route on a real API server: HTTPRoute and InferencePool are valid, follow the spec, and may be impossible."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from operator_stage import Operators, Play, Stage, ready

from fixtures.gateway_crds import install_gateway_crds, remove_gateway_crds
from gllm_operator.build.route import GATEWAY_API, INFERENCE_API, PICKER_ANNOTATION
from gllm_operator.kube.api import ApiError
from gllm_operator.objects import Object, ref_of

pytestmark = pytest.mark.timing

ROUTE: dict[str, Any] = {
    "parentRefs": [{"name": "public", "namespace": "gateways"}],
    "hostnames": ["smol.example.com"],
    "weight": 90,
    "canaries": [{"name": "smol-next", "weight": 10}],
}


@pytest.fixture
def gateway_api(talk: Any) -> Iterator[None]:
    talk(install_gateway_crds)
    yield
    talk(remove_gateway_crds)


def condition(status: dict[str, Any], type: str) -> tuple[str, str]:
    found = [(one["status"], one["reason"]) for one in status.get("conditions", []) if one["type"] == type]
    return found[0] if found else ("", "")


async def get(on: Stage, api_version: str, kind: str) -> Object:
    return await on.api.get(api_version, kind, on.namespace, "smol")


async def until_gone(on: Stage, api_version: str, kind: str) -> None:
    for _ in range(100):
        try:
            await get(on, api_version, kind)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        await asyncio.sleep(0.1)
    raise AssertionError(f"the {kind} is still there")


async def answer(on: Stage, accepted: str, reason: str) -> None:
    """What the controller of a Gateway would write."""
    route = await get(on, GATEWAY_API, "HTTPRoute")
    condition = {
        "type": "Accepted",
        "status": accepted,
        "reason": reason,
        "message": "",
        "observedGeneration": route["metadata"]["generation"],
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    parent = {"parentRef": {"name": "public"}, "controllerName": "example.com/x", "conditions": [condition]}
    body = {"status": {"parents": [parent]}}
    await on.api.patch(GATEWAY_API, "HTTPRoute", on.namespace, "smol", body, "status")


@pytest.mark.usefixtures("gateway_api")
def test_routes_and_pools_follow_the_spec(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make(route=ROUTE)
        status = await on.until(lambda one: ready(1)(one) and condition(one, "Routed") == ("Unknown", "Pending"))
        assert status["reason"] == "Ready"
        route = await get(on, GATEWAY_API, "HTTPRoute")
        (rule,) = route["spec"]["rules"]
        assert route["spec"]["hostnames"] == ["smol.example.com"]
        assert [(one["kind"], one["name"], one["port"], one["weight"]) for one in rule["backendRefs"]] == [
            ("Service", "smol", 80, 90),
            ("Service", "smol-next", 80, 10),
        ]
        assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]
        await answer(on, "False", "NoMatchingListenerHostname")
        await on.until(lambda one: condition(one, "Routed") == ("False", "NoMatchingListenerHostname"))
        await answer(on, "True", "Accepted")
        await on.until(lambda one: condition(one, "Routed") == ("True", "Accepted"))
        # With an endpoint picker, the route leads to a pool of the masters.
        await on.edit(route=ROUTE | {"endpointPicker": {"name": "epp", "failureMode": "FailOpen"}})
        await on.until(lambda one: condition(one, "Routed") == ("Unknown", "Pending"))
        pool = await get(on, INFERENCE_API, "InferencePool")
        assert pool["spec"]["selector"]["matchLabels"] == {"gllm.dev/deployment": "smol", "gllm.dev/role": "master"}
        assert pool["spec"]["targetPorts"] == [{"number": 8000}]
        assert pool["spec"]["endpointPickerRef"]["port"] == {"number": 9002}
        assert yaml.safe_load(pool["metadata"]["annotations"][PICKER_ANNOTATION])["kind"] == "EndpointPickerConfig"
        (rule,) = (await get(on, GATEWAY_API, "HTTPRoute"))["spec"]["rules"]
        assert rule["backendRefs"][0] == {
            "group": "inference.networking.k8s.io",
            "kind": "InferencePool",
            "name": "smol",
            "weight": 90,
        }
        # What the spec no longer asks for is deleted.
        await on.edit(route=None)
        await until_gone(on, GATEWAY_API, "HTTPRoute")
        await until_gone(on, INFERENCE_API, "InferencePool")
        await on.until(lambda one: one["reason"] == "Ready" and condition(one, "Routed") == ("", ""))

    play(work)


def test_without_the_api_the_route_is_missing_and_nothing_else(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make(route=ROUTE | {"endpointPicker": {"name": "epp"}})
        status = await on.until(ready(1))
        assert status["reason"] == "ApiMissing"
        assert condition(status, "Ready") == ("True", "AllGroupsReady")
        assert condition(status, "Integrated") == ("False", "ApiMissing")
        text = next(one["message"] for one in status["conditions"] if one["type"] == "Integrated")
        assert "no gateway.networking.k8s.io/v1, so there is no HTTPRoute smol" in text
        assert "no inference.networking.k8s.io/v1, so there is no InferencePool smol" in text

    play(work)


@pytest.mark.usefixtures("gateway_api")
@pytest.mark.parametrize("case", ["all", "plain"])
def test_rendered_objects_are_valid(case: str, namespace: str, talk: Any) -> None:
    from gllm_operator.build.integrations import OPTIONAL_APIS
    from gllm_operator.local.manifest import objects_of, without_owner

    more = {
        "requestTimeoutSeconds": 0,
        "endpointPicker": {"name": "epp", "port": 9000},
        "paths": ["/v1", "/generate"],
        "canaries": [
            {"name": "a", "weight": 0, "servicePort": 81},
            {"name": "b", "weight": 1, "backend": "InferencePool"},
        ],
    }
    route = {"parentRefs": [{"name": "g", "sectionName": "https", "port": 443}]} | (more if case == "all" else {})
    spec = {"model": {"source": "file:///models/x"}, "image": "gllm:1", "route": route}
    metadata = {"name": "smol", "namespace": namespace, "uid": "0", "finalizers": ["gllm.dev/drain"]}
    objects = objects_of({"metadata": metadata, "spec": spec}, keys="", apis=frozenset(OPTIONAL_APIS))
    routes = [without_owner(one) for one in objects if one["kind"] in ("HTTPRoute", "InferencePool")]
    assert len(routes) == (2 if case == "all" else 1)
    for one in routes:
        assert ref_of(talk(lambda api, one=one: api.apply(one))) == ref_of(one)
