"""Nodes that are about to go: a new group serves before the old one drains, and no drain waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from fixtures.kube_memory import MemoryApi
from fixtures.kube_world import NODES, is_ready, ready_masters
from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.nodes import LeavingNodes, leaves
from gllm_operator.objects import Object


def spec(**changes: Any) -> dict[str, Any]:
    return SPEC | changes


def budget(harness: OperatorHarness) -> int:
    (one,) = harness.api.of_kind("PodDisruptionBudget")
    return int(one["spec"]["maxUnavailable"])


def nodes_of(harness: OperatorHarness) -> set[str]:
    return {pod["spec"]["nodeName"] for pod in harness.api.of_kind("Pod")}


def message(harness: OperatorHarness) -> str:
    return next(one.message for one in harness.status.conditions if one.type == "Ready")


def cordon(harness: OperatorHarness, *nodes: str) -> None:
    """Those that have pods, if none is named."""
    harness.world.cordoned = set(nodes) or nodes_of(harness)


def served_throughout(harness: OperatorHarness, passes: int = 60) -> list[int]:
    """The numbers of groups that served at each step of a drain."""
    served = []
    for _ in range(passes):
        harness.run_pass()
        harness.world.drain_nodes()
        harness.world.step()
        served.append(len(ready_masters(harness.api)))
        harness.now += 1
    return served


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_drain_takes_no_group_before_a_new_one_serves(replicas: int) -> None:
    harness = OperatorHarness(spec(replicas=replicas))
    harness.run_until_quiet()
    assert budget(harness) == 0
    old = {group.name for group in harness.status.groups}
    cordon(harness, *NODES[:2])
    left = {one.name for one in harness.status.groups} if nodes_of(harness) == {NODES[2]} else set()
    assert min(served_throughout(harness)) >= replicas
    assert nodes_of(harness) == {NODES[2]}
    assert old & {group.name for group in harness.status.groups} <= old - left
    assert (harness.status.ready, harness.status.reason) == (f"{replicas}/{replicas}", "Ready")
    assert budget(harness) == 0


def test_the_status_tells_the_move() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    (old,) = harness.status.groups
    node = next(pod["spec"]["nodeName"] for pod in harness.api.of_kind("Pod") if "-m-" in pod["metadata"]["name"])
    cordon(harness, node)
    harness.run_pass()
    assert (harness.status.reason, harness.condition("Ready")) == ("GroupsMoving", ("True", "GroupsMoving"))
    assert message(harness).startswith(
        f"1 of 1 groups serve; group {old.name} moves off the node {node} (cordoned): a new group starts first, "
        "within rollout.maxSurge; group "
    )
    harness.run_pass()
    new = next(group for group in harness.status.groups if group.name != old.name)
    assert f"it drains when group {new.name} serves; group {new.name} is Pending (0/2 pods ready)" in message(harness)
    harness.run_until_quiet()
    assert [group.name for group in harness.status.groups] == [new.name]
    assert harness.status.reason == "Ready"


def test_without_room_the_drain_goes_on_and_a_mere_cordon_takes_nothing() -> None:
    harness = OperatorHarness(spec(disruption={"waitForRoomSeconds": 30}))
    harness.run_until_quiet()
    (old,) = harness.status.groups
    began = harness.now
    cordon(harness, *NODES)
    waits = []
    while budget(harness) == 0:
        waits.append(harness.run_pass())
        harness.world.step()
        assert harness.now < began + 40
        harness.now += 1
    assert harness.now - began >= 30
    assert any(wait is not None and wait < 31 for wait in waits), "it wakes for it"
    for _ in range(50):
        harness.run_pass()
        harness.world.step()
        harness.now += 60
    assert "is not scheduled within 30 s (disruption.waitForRoomSeconds); evictions no longer wait" in message(harness)
    assert harness.status.reason == "EvictionsGoOn"
    events = [(one["type"], one["reason"]) for one in harness.api.of_kind("Event")]
    assert events.count(("Warning", "EvictionsGoOn")) == 1
    assert len(ready_masters(harness.api)) == 1, "nothing was evicted"
    assert harness.world.drain_nodes()
    harness.run_pass()
    assert {group.phase for group in harness.status.groups if group.name == old.name} == {"Draining"}
    harness.world.cordoned = set()
    harness.run_until_quiet()
    assert (harness.status.ready, budget(harness)) == ("1/1", 0)


def test_a_new_group_that_does_not_get_ready_does_not_hold_the_drain() -> None:
    harness = OperatorHarness(spec(rollout={"progressDeadlineSeconds": 300}))
    harness.run_until_quiet()
    cordon(harness)
    harness.world._can_be_ready = lambda pod: False  # type: ignore[method-assign]
    for _ in range(100):
        harness.run_pass()
        assert (budget(harness) > 0) == ("evictions no longer wait" in message(harness))
        if budget(harness) > 0:
            break
        harness.world.step()
        harness.now += 5
    assert "is not ready within 300 s (rollout.progressDeadlineSeconds)" in message(harness)
    assert harness.world.drain_nodes()
    assert ready_masters(harness.api) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"rollout": {"maxSurge": 0, "maxUnavailable": 1}},
        {"disruption": {"waitForRoomSeconds": 0}},
        {"rollout": {"maxSurge": 0, "maxUnavailable": 1}, "disruption": {"maxUnavailableGroups": 0}},
    ],
)
def test_without_a_surge_evictions_go_on_at_once(changes: dict[str, Any]) -> None:
    harness = OperatorHarness(spec(**changes))
    harness.run_until_quiet()
    names = [group.name for group in harness.status.groups]
    cordon(harness)
    harness.run_until_quiet()
    assert budget(harness) == changes.get("disruption", {}).get("maxUnavailableGroups", 1)
    assert [group.name for group in harness.status.groups] == names, "the operator drains nothing by itself"


def test_an_operator_that_may_not_watch_nodes_lets_evictions_go_on() -> None:
    harness = OperatorHarness()
    harness.sees_nodes = False
    harness.run_until_quiet()
    cordon(harness)
    harness.run_until_quiet()
    assert (budget(harness), harness.status.reason, len(harness.status.groups)) == (1, "Ready", 1)


def test_an_uncordoned_node_keeps_its_group() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    names = [group.name for group in harness.status.groups]
    cordon(harness)
    for _ in range(3):
        harness.run_pass()
        harness.now += 1
    assert len(harness.status.groups) == 2
    harness.world.cordoned = set()
    harness.run_until_quiet()
    assert [group.name for group in harness.status.groups] == names


def test_an_edit_while_a_group_moves() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    cordon(harness, *NODES[:2])
    harness.run_pass()
    harness.edit(lambda one: one.update(image="gllm:2"))
    assert min(served_throughout(harness, 100)) >= 2
    assert {group.revision for group in harness.status.groups} == {harness.status.update_revision}
    assert nodes_of(harness) == {NODES[2]}


ROLLOUTS = st.fixed_dictionaries(
    {"maxSurge": st.integers(1, 2), "maxUnavailable": st.integers(1, 2), "progressDeadlineSeconds": st.just(200)}
)
STEPS = st.lists(
    st.sampled_from(
        ["cordon", "cordon", "uncordon", "world", "world", "wait", "crash pod", "restart operator", "edit"]
    ),
    max_size=20,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    replicas=st.integers(1, 3),
    rollout=ROLLOUTS,
    room=st.sampled_from([30, 120]),
    steps=STEPS,
    seed=st.integers(0, 2**32),
    bad=st.booleans(),
)
def test_every_drain_ends(
    replicas: int, rollout: dict[str, int], room: int, steps: list[str], seed: int, bad: bool
) -> None:
    """Whatever happens, and also where no node has room, or new groups do not get ready. Never are there more groups
    than maxSurge allows, and the operator drains no group on a node unless all others serve."""
    harness = OperatorHarness(
        spec(replicas=replicas, rollout=rollout, disruption={"waitForRoomSeconds": room}), seed=seed
    )
    harness.run_until_quiet()
    chance = harness.world.chance
    harness.api.fail = lambda verb, name, done: check(harness, verb, name, done)
    for step in steps:
        pods = harness.api.of_kind("Pod")
        match step:
            case "cordon":
                harness.world.cordoned.add(chance.choice(NODES))
            case "uncordon":
                harness.world.cordoned.clear()
            case "world":
                harness.world.step()
            case "wait":
                harness.now += chance.uniform(0, 60)
            case "crash pod" if pods:
                harness.world.crash(chance.choice(pods))
            case "restart operator":
                harness.start_operator()
            case "edit":
                harness.edit(lambda one: one.update(image=f"gllm:{chance.randint(1, 3)}"))
        harness.run_pass()
    if bad:
        harness.world._can_be_ready = lambda pod: False  # type: ignore[method-assign]
    began, harness.world.eager = harness.now, True
    while harness.world.drain_nodes():
        harness.run_pass()
        harness.world.step()
        harness.now += 5
        assert harness.now - began < 5000, (harness.status.reason, message(harness), budget(harness))


def check(harness: OperatorHarness, verb: str, name: str, done: bool) -> None:
    sets = harness.sets()
    if done or harness.deployment is None or not name.endswith("-m"):
        return
    rollout, replicas = harness.deployment["spec"]["rollout"], harness.deployment["spec"]["replicas"]
    if verb == "apply" and name not in {one["metadata"]["name"] for one in sets}:
        assert len(sets) + 1 <= replicas + rollout["maxSurge"]
    if verb != "delete":
        return
    (group,) = [one for one in harness.status.groups if name == f"{one.name}-m"]
    pods = [pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/group"] == group.name]
    serves = len(pods) == 2 and all(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods)
    if serves and group.revision == harness.status.update_revision and harness.status.rollout.complete:
        assert len(ready_masters(harness.api)) - 1 >= replicas, "it moved before a new group served"


# --- the watch ---------------------------------------------------------------------------------------------------

TAINTS = ("ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted")


def node(name: str, **fields: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "namespace": ""}, "spec": fields}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"unschedulable": True}, "cordoned"),
        ({"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}, "taint karpenter.sh/disrupted"),
        ({"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}, ""),
        ({"taints": [{"key": "DeletionCandidateOfClusterAutoscaler", "effect": "PreferNoSchedule"}]}, ""),
    ],
)
def test_which_nodes_leave(fields: dict[str, Any], why: str) -> None:
    assert leaves(node("a", **fields), TAINTS) == why


def test_the_watch_follows_the_nodes_and_their_right() -> None:
    async def go() -> None:
        api, changes = MemoryApi(), []
        api.put(node("a", unschedulable=True))
        api.put(node("b"))
        watch = LeavingNodes(api, TAINTS, lambda: changes.append(watch.found))
        assert watch.found is None
        task = asyncio.create_task(watch.run())
        await watch.asked.wait()
        assert watch.found == {"a": "cordoned"}
        await asyncio.sleep(0)
        held = {one["metadata"]["name"]: one for one in api.of_kind("Node")}
        api.edit(held["b"], lambda one: one["spec"].update(taints=[{"key": TAINTS[0]}]))
        api.edit(held["a"], lambda one: one["spec"].update(unschedulable=False))
        api.edit(held["a"], lambda one: one["metadata"].update(labels={"x": "y"}))
        await asyncio.sleep(0.01)
        assert watch.found == {"b": f"taint {TAINTS[0]}"}
        api.drop(held["b"])
        await asyncio.sleep(0.01)
        assert (watch.found, len(changes)) == ({}, 4), "one call for each change"
        task.cancel()

    asyncio.run(go())


def test_a_missing_right_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        api = MemoryApi()
        forbidden = ApiError(403, "Forbidden", "nodes is forbidden")
        monkeypatch.setattr("gllm_operator.kube.nodes._LONGEST_DELAY", 0.001)

        async def refuse(*_: Any) -> Any:
            raise forbidden

        monkeypatch.setattr(api, "list", refuse)
        watch = LeavingNodes(api, TAINTS)
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        assert (watch.asked.is_set(), watch.found) == (True, None)
        assert [one.message for one in caplog.records] == [
            "may not watch nodes, so evictions do not wait for new groups: set watchNodes of the chart"
        ]
        monkeypatch.undo()
        await asyncio.sleep(0.05)
        assert watch.found == {}, "the right was granted meanwhile"
        task.cancel()

    asyncio.run(go())
