"""The Job that runs before `helm uninstall` removes the operator."""

from __future__ import annotations

import asyncio
from typing import Any

from fixtures.kube_memory import MemoryApi
from fixtures.operator_harness import deployment
from gllm_operator.names import FINALIZER
from gllm_operator.uninstall import delete_all, release_all, stop_operator


class Scene:
    def __init__(self, count: int = 2) -> None:
        self.now = 0.0
        self.api = MemoryApi(lambda: self.now)
        self.said: list[str] = []
        for number in range(count):
            made = deployment(name=f"d{number}")
            made["metadata"]["finalizers"] = [FINALIZER, "other.dev/mine"]
            self.api.put(made)

    @property
    def deployments(self) -> list[dict[str, Any]]:
        return [one for one in self.api.objects.values() if one["kind"] == "LLMDeployment"]

    def clock(self) -> float:
        return self.now

    def act(self) -> None:
        """What happens on the cluster each second."""

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 1000, "does not end"
        self.act()

    def release(self, *finalizers: str) -> None:
        for one in self.deployments:
            left = [name for name in one["metadata"]["finalizers"] if name not in finalizers]
            self.api.edit(one, lambda found, left=left: found["metadata"].update(finalizers=left))


def test_deletes_and_waits_for_the_operator() -> None:
    class Working(Scene):
        def act(self) -> None:
            if self.now >= 10:
                for one in self.deployments:
                    self.api.drop(one)

    scene = Working()
    asyncio.run(delete_all(scene.api, (), 60, scene.said.append, scene.sleep, scene.clock))
    assert scene.deployments == []
    assert 10 <= scene.now < 15
    assert len(scene.said) == 2


def test_removes_finalizers_after_the_timeout() -> None:
    class Dead(Scene):
        def act(self) -> None:
            self.release("other.dev/mine")

    scene = Dead()
    asyncio.run(delete_all(scene.api, (), 60, scene.said.append, scene.sleep, scene.clock))
    assert scene.deployments == []
    assert 60 <= scene.now < 70
    assert "removes their finalizers" in scene.said[-1]


def test_keeps_other_finalizers_and_namespaces() -> None:
    scene = Scene()
    asyncio.run(release_all(scene.api, (), scene.said.append, scene.sleep))
    assert [one["metadata"]["finalizers"] for one in scene.deployments] == [["other.dev/mine"]] * 2
    assert not any("deletionTimestamp" in one["metadata"] for one in scene.deployments)


def test_removes_a_finalizer_that_was_added_again() -> None:
    class Stubborn(Scene):
        def act(self) -> None:
            if self.now < 3:
                for one in self.deployments:
                    self.api.edit(one, lambda found: found["metadata"].update(finalizers=[FINALIZER]))

    scene = Stubborn(1)
    asyncio.run(release_all(scene.api, (), scene.said.append, scene.sleep))
    assert scene.deployments[0]["metadata"]["finalizers"] == []


def test_an_empty_cluster_needs_no_wait() -> None:
    scene = Scene(0)
    asyncio.run(delete_all(scene.api, (), 60, scene.said.append, scene.sleep, scene.clock))
    assert scene.now == 0


def test_stops_the_operator_and_waits() -> None:
    class Ending(Scene):
        def act(self) -> None:
            if self.now >= 5:
                found = next(one for one in self.api.objects.values() if one["kind"] == "Deployment")
                self.api.edit(found, lambda one: one.update(status={"observedGeneration": 9}))

    scene = Ending(0)
    scene.api.put(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "gllm", "namespace": "system", "generation": 1},
            "spec": {"replicas": 1},
            "status": {"observedGeneration": 0, "replicas": 1},
        }
    )
    asyncio.run(stop_operator(scene.api, "system/gllm", 60, scene.sleep, scene.clock))
    (found,) = [one for one in scene.api.objects.values() if one["kind"] == "Deployment"]
    assert found["spec"]["replicas"] == 0
    assert 5 <= scene.now < 8
