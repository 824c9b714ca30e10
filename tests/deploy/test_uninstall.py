"""The Job that runs before `helm uninstall` removes the operator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fixtures.kube_memory import MemoryApi
from fixtures.operator_harness import deployment
from gllm_operator.names import FINALIZER, OPERATOR
from gllm_operator.objects import Object
from gllm_operator.uninstall import Mine, delete_all, delete_crd, is_uninstalling, release_all, stop_operator

MINE = Mine("system/gllm")


class Scene:
    def __init__(self, count: int = 2) -> None:
        self.now = 0.0
        self.api = MemoryApi(lambda: self.now)
        self.said: list[str] = []
        for number in range(count):
            made = deployment(name=f"d{number}")
            made["metadata"]["finalizers"] = [FINALIZER, "other.dev/mine"]
            made["metadata"]["annotations"] = {OPERATOR: "system/gllm"}
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
    asyncio.run(delete_all(scene.api, MINE, 60, scene.said.append, scene.sleep, scene.clock))
    assert scene.deployments == []
    assert 10 <= scene.now < 15
    assert len(scene.said) == 2


def test_removes_finalizers_after_the_timeout() -> None:
    class Dead(Scene):
        def act(self) -> None:
            self.release("other.dev/mine")

    scene = Dead()
    asyncio.run(delete_all(scene.api, MINE, 60, scene.said.append, scene.sleep, scene.clock))
    assert scene.deployments == []
    assert 60 <= scene.now < 70
    assert "removes their finalizers" in scene.said[-1]


def test_keeps_other_finalizers_and_namespaces() -> None:
    scene = Scene()
    asyncio.run(release_all(scene.api, MINE, scene.said.append, scene.sleep))
    assert [one["metadata"]["finalizers"] for one in scene.deployments] == [["other.dev/mine"]] * 2
    assert not any("deletionTimestamp" in one["metadata"] for one in scene.deployments)


def test_kept_deployments_let_evictions_go_on() -> None:
    """Their budgets let none go while an operator moves groups off drained nodes. Now there is none."""
    scene = Scene()
    for one, allowed in zip(scene.deployments, (1, 3), strict=True):
        named = {"namespace": "default", "name": one["metadata"]["name"]}
        if allowed != 1:
            scene.api.edit(one, lambda found: found["spec"].update(disruption={"maxUnavailableGroups": 3}))
        spec = {"maxUnavailable": 0}
        scene.api.put({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": named, "spec": spec})
    asyncio.run(release_all(scene.api, MINE, scene.said.append, scene.sleep))
    assert [one["spec"]["maxUnavailable"] for one in scene.api.of_kind("PodDisruptionBudget")] == [1, 3]


def test_removes_a_finalizer_that_was_added_again() -> None:
    class Stubborn(Scene):
        def act(self) -> None:
            if self.now < 3:
                for one in self.deployments:
                    marks = {"finalizers": [FINALIZER], "annotations": {OPERATOR: "system/gllm"}}
                    self.api.edit(one, lambda found, marks=marks: found["metadata"].update(marks))

    scene = Stubborn(1)
    asyncio.run(release_all(scene.api, MINE, scene.said.append, scene.sleep))
    assert scene.deployments[0]["metadata"]["finalizers"] == []


def test_an_empty_cluster_needs_no_wait() -> None:
    scene = Scene(0)
    asyncio.run(delete_all(scene.api, MINE, 60, scene.said.append, scene.sleep, scene.clock))
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


@pytest.mark.parametrize("keep", [True, False])
def test_another_operators_deployments_and_unmarked_ones_are_left_alone(keep: bool) -> None:
    scene = Scene(1)
    for name, marks in (("theirs", {OPERATOR: "other/gllm"}), ("unmarked", {})):
        made = deployment(name=name)
        made["metadata"] |= {"finalizers": [FINALIZER], "annotations": marks}
        scene.api.put(made)
    mine, *others = scene.deployments
    scene.api.edit(mine, lambda one: one["metadata"].update(finalizers=[FINALIZER]))
    if keep:
        asyncio.run(release_all(scene.api, MINE, scene.said.append, scene.sleep))
        assert scene.deployments[0]["metadata"]["annotations"] == {}
        assert scene.deployments[1:] == others
    else:
        asyncio.run(delete_all(scene.api, MINE, 5, scene.said.append, scene.sleep, scene.clock))
        assert scene.deployments == others


def record(scene: Scene, name: str, status: str, kind: str = "Secret", namespace: str = "system") -> None:
    labels = {"owner": "helm", "name": name, "status": status}
    metadata = {"name": f"sh.helm.release.v1.{name}.v{scene.api.version}", "namespace": namespace, "labels": labels}
    scene.api.put({"apiVersion": "v1", "kind": kind, "metadata": metadata})


def test_nothing_is_done_unless_helm_uninstalls_this_release() -> None:
    """A rendered chart that is applied has the Job too, but no such record of helm."""

    def uninstalling() -> bool:
        return asyncio.run(is_uninstalling(scene.api, "system", "gllm"))

    scene = Scene()
    assert not uninstalling()
    record(scene, "gllm", "superseded")
    record(scene, "gllm", "deployed")
    record(scene, "other", "uninstalling")
    record(scene, "gllm", "uninstalling", namespace="elsewhere")
    assert not uninstalling()
    record(scene, "gllm", "uninstalling")
    assert uninstalling()
    scene = Scene()
    record(scene, "gllm", "uninstalling", "ConfigMap")
    assert uninstalling()


def crd(scene: Scene, release: str = "gllm") -> list[Object]:
    annotations = {"meta.helm.sh/release-namespace": "system", "meta.helm.sh/release-name": release}
    metadata = {"name": "llmdeployments.gllm.dev", "namespace": "", "annotations": annotations}
    scene.api.put({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata})
    asyncio.run(delete_crd(scene.api, "system/gllm", scene.said.append))
    return scene.api.of_kind("CustomResourceDefinition")


def test_the_crd_is_deleted_only_if_it_is_unused_and_of_this_release() -> None:
    assert crd(Scene(0)) == []
    used = Scene(1)
    assert crd(used)
    assert "default/d0" in used.said[-1]
    assert crd(Scene(0), "other")
    asyncio.run(delete_crd(Scene(0).api, "system/gllm"))
