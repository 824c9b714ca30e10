"""A cordoned node on a real API server: a new group serves elsewhere before the old one drains. An operator without the
right to watch nodes works all the same."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from operator_stage import Operators, Play, Stage, ready

from fixtures.kube_tools import ROOT, tool
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import Login

HELM = tool("helm")

pytestmark = pytest.mark.timing


async def make_node(on: Stage, name: str) -> None:
    await on.api._call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})


async def budget(on: Stage) -> int:
    found = await on.api.get("policy/v1", "PodDisruptionBudget", on.namespace, "smol")
    return int(found["spec"]["maxUnavailable"])


def test_a_group_leaves_a_cordoned_node(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        old, new = f"old-{on.namespace}", f"new-{on.namespace}"
        await make_node(on, old)
        on.controllers.node = old
        operators.start()
        await on.make()
        first = (await on.until(ready(1)))["groups"][0]["name"]
        assert await budget(on) == 0
        on.controllers.node = new
        on.controllers.bad_images.add("gllm:1")  # The new group loads, until the test says that it is ready.
        await on.api._call(
            "PATCH", f"/api/v1/nodes/{old}", {"spec": {"unschedulable": True}}, "application/merge-patch+json"
        )
        status = await on.until(lambda one: len(one.get("groups", [])) == 2 and "drains when" in str(one))
        assert (status["reason"], status["ready"]) == ("GroupsMoving", "1/1")
        on.controllers.bad_images.clear()
        status = await on.until(lambda one: ready(1)(one) and one["groups"][0]["name"] != first)
        pods, _ = await on.api.list("v1", "Pod", on.namespace)
        assert {pod["spec"]["nodeName"] for pod in pods} == {new}
        assert (await on.until(lambda one: one["reason"] == "Ready"))["updatedReplicas"] == 1
        events, _ = await on.api.list("v1", "Event", on.namespace)
        assert [one["reason"] for one in events].count("GroupsMoving") == 1

    play(work)


@pytest.mark.skipif(HELM is None, reason="no helm on the PATH or in ../shared/k8s")
def test_the_rights_of_a_namespace_suffice(login: Login, namespace: str, tmp_path: Path, play: Play, talk: Any) -> None:
    """With the chart's rights for one namespace, and none on nodes, evictions do not wait. The log says so once."""
    values = f"watchNamespaces={{{namespace}}},watchNodes=false,crds.install=false,aggregateRoles=false"
    command = [str(HELM), "template", "gllm", str(ROOT / "charts/gllm"), "-n", namespace, "--no-hooks", "--set", values]
    command += ["--kube-version", "1.34.0"]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = {"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings", "Lease": "leases"}

    async def token(api: ApiClient) -> str:
        for one in yaml.safe_load_all(rendered):
            if one and one["kind"] in kinds:
                root = "/api/v1" if one["apiVersion"] == "v1" else f"/apis/{one['apiVersion']}"
                await api._call("POST", f"{root}/namespaces/{namespace}/{kinds[one['kind']]}", one)
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/gllm/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str((await api._call("POST", path, request))["status"]["token"])

    limited = Login(kopf.ConnectionInfo(server=login.server, token=talk(token), insecure=True))
    operators = Operators(limited, tmp_path, namespace)

    async def work(on: Stage) -> None:
        operators.start(**{"lease-name": "gllm"})
        await on.make()
        await on.until(ready(1))
        assert await budget(on) == 1

    try:
        play(work)
    finally:
        operators.end()
    log = (tmp_path / "operator-0.log").read_text()
    assert log.count("may not watch nodes") == 1
    assert log.count("forbidden") == 1, log
