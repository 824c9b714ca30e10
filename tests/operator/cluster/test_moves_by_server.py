"""A cordoned node on a real API server: a new group serves on another node before the old one drains."""

from __future__ import annotations

import pytest
from operator_stage import Operators, Play, Stage, ready

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
