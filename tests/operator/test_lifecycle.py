"""The operator against an API server in memory: users' actions and failures, and what follows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fixtures.kube_world import ready_masters
from fixtures.operator_harness import SPEC, OperatorHarness, deployment
from gllm_operator.controller.reconcile import Reconciler
from gllm_operator.kube.cache import Cache
from gllm_operator.objects import ObjectKey, resource_version, seconds_of

KEY = ObjectKey("default", "smol")


def spec(**changes: Any) -> dict[str, Any]:
    return SPEC | changes


def image(tag: str) -> Any:
    return lambda one: one.update(image=f"gllm:{tag}")


def test_a_new_deployment_serves() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    status = harness.status
    assert (status.ready, status.reason, status.replicas) == ("1/1", "Ready", 1)
    assert [group.ready_ranks for group in status.groups] == ["2/2"]
    assert status.current_revision == status.update_revision != ""
    assert harness.condition("Progressing") == ("True", "Complete")
    kinds = {one["kind"] for one in harness.api.objects.values()}
    assert {
        "Service",
        "Secret",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceAccount",
        "ControllerRevision",
    } <= kinds


def test_the_status_has_the_loading_progress() -> None:
    harness = OperatorHarness()
    harness.world.eager = True
    waits = []
    while harness.status.groups == () or harness.status.groups[0].phase == "Pending":
        harness.run_pass()
        harness.world.step()
        harness.now += 1
    for harness.loaded in (None, 0.074, 0.5, 1.0):
        harness.world.bad_revisions.add(harness.status.update_revision)  # It stays in the phase Loading.
        waits.append(harness.run_pass())
        harness.now += 2
        (group,) = harness.status.groups
        assert group.load_percent == (None if harness.loaded is None else int(100 * harness.loaded))
        ready = next(one for one in harness.status.conditions if one.type == "Ready")
        assert ("% of the weights loaded" in ready.message) == (harness.loaded is not None)
    assert all(wait is not None and wait <= 2.1 for wait in waits)
    assert [one["reason"] for one in harness.api.of_kind("Event")].count("GroupLoading") == 1
    harness.world.bad_revisions.clear()
    harness.run_until_quiet()
    (group,) = harness.status.groups
    assert (group.phase, group.load_percent) == ("Ready", None)


def test_a_failed_group_is_not_queried() -> None:
    harness = OperatorHarness(spec(recovery={"policy": "None"}))
    harness.run_pass()
    harness.run_pass()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.run_until_quiet()
    harness.now += 9000
    harness.run_until_quiet()
    assert harness.status.groups[0].phase == "Failed"
    assert harness.run_pass() is None


def test_an_idle_deployment_costs_no_writes() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    before = len(harness.api.writes)
    for _ in range(20):
        assert harness.run_pass() is None
        harness.now += 300
    assert harness.api.writes[before:] == []


def test_a_new_operator_writes_nothing_that_changes_anything() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    versions = {where: one["metadata"]["resourceVersion"] for where, one in harness.api.objects.items()}
    harness.start_operator()
    harness.run_pass()
    assert {where: one["metadata"]["resourceVersion"] for where, one in harness.api.objects.items()} == versions


def test_rollout_surges_before_it_drains() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    harness.edit(image("2"))
    least = 2
    for _ in range(60):
        harness.run_pass()
        harness.world.step()
        harness.now += 1
        least = min(least, len(ready_masters(harness.api)))
        assert len([one for one in harness.sets() if "deletionTimestamp" not in one["metadata"]]) <= 3
    assert least == 2
    assert harness.status.ready == "2/2"
    assert harness.status.updated_replicas == 2
    assert {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in harness.sets()} == {"gllm:2"}


def test_resharding_is_a_rollout() -> None:
    harness = OperatorHarness(spec(accelerator={"type": "cpu", "perPod": 2}, parallelism={"pipeline": 2}))
    harness.run_until_quiet()
    assert harness.sets("slave") == []
    harness.edit(lambda one: one.update(parallelism={"pipeline": 4, "tensor": 2, "expert": 2}))
    harness.run_until_quiet()
    (slaves,) = harness.sets("slave")
    assert slaves["spec"]["replicas"] == 3
    assert slaves["spec"]["ordinals"] == {"start": 1}
    assert harness.status.shape is not None
    assert harness.status.shape.summary == "PP4xTP2xEP2"
    assert harness.status.ready == "1/1"


def test_a_bad_revision_is_rolled_back() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    good = harness.status.current_revision
    harness.edit(image("bad"))
    harness.run_pass()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.run_until_quiet()
    harness.now += 3000
    harness.run_until_quiet()
    assert harness.condition("RolledBack") == ("True", "RolledBack")
    assert harness.status.failed_revision == harness.status.update_revision != good
    assert {group.revision for group in harness.status.groups} == {good}
    assert len(ready_masters(harness.api, good)) == 1
    harness.edit(image("3"))
    harness.run_until_quiet()
    assert harness.condition("RolledBack") == ("False", "NotRolledBack")
    assert harness.status.ready == "1/1"


def test_a_failed_first_revision_is_retried_and_reported() -> None:
    harness = OperatorHarness()
    harness.run_pass()
    harness.run_pass()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.run_until_quiet()
    for _ in range(30):
        harness.now += 3000
        harness.run_until_quiet()
    assert harness.condition("Degraded") == ("True", "GroupFailed")
    assert harness.status.places[0].restarts == 5
    assert harness.status.reason == "GroupFailed"


def test_a_lost_slave_joins_its_group_again() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    (group,) = harness.status.groups
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    harness.world.crash(slave, 137, "out of memory")
    master = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "master")
    harness.world.set_ready(master, False)
    harness.run_pass()
    (broken,) = harness.status.groups
    assert broken.phase == "Recovering"
    assert broken.last_failure is not None
    assert (broken.last_failure.exit_code, broken.last_failure.rank) == (137, 1)
    harness.run_until_quiet()
    assert [one.name for one in harness.status.groups] == [group.name]
    assert harness.status.ready == "1/1"


def test_a_recovered_group_is_ready_since_its_recovery() -> None:
    """Its master's pod was ready throughout, but the group must not count as stable for that time."""
    harness = OperatorHarness()
    harness.run_until_quiet()
    harness.now += 1000
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    harness.world.set_ready(slave, False)
    harness.run_pass()
    assert harness.status.groups[0].phase == "Recovering"
    harness.now += 5
    recovered = harness.now
    harness.world.set_ready(harness.api.objects["v1", "Pod", "default", slave["metadata"]["name"]], True)
    harness.run_pass()
    (group,) = harness.status.groups
    assert group.phase == "Ready"
    assert seconds_of(group.ready_at) == int(recovered)


def test_pods_on_a_lost_node_are_replaced() -> None:
    harness = OperatorHarness(spec(parallelism={"pipeline": 3}))
    harness.run_until_quiet()
    names = [one.name for one in harness.status.groups]
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    harness.world.lost_nodes.add(slave["spec"]["nodeName"])
    harness.run_until_quiet()
    assert harness.status.ready == "1/1"
    assert [one.name for one in harness.status.groups] == names
    assert all(pod["spec"]["nodeName"] not in harness.world.lost_nodes for pod in harness.api.of_kind("Pod"))


def test_a_group_with_kept_pods_on_a_lost_node_is_replaced() -> None:
    harness = OperatorHarness(spec(recovery={"lostPods": "Keep", "deadlineSeconds": 60}))
    harness.run_until_quiet()
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    master = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "master")
    harness.world.lost_nodes.add(slave["spec"]["nodeName"])
    if master["spec"]["nodeName"] not in harness.world.lost_nodes:
        harness.world.set_ready(master, False)
        harness.world._can_be_ready = lambda pod: "-2-" in pod["metadata"]["name"]  # type: ignore[method-assign]
    harness.run_until_quiet()
    for _ in range(8):
        harness.now += 30
        harness.run_until_quiet()
    assert harness.status.ready == "1/1"
    assert max(group.instance for group in harness.status.groups) == 2


def test_scaling() -> None:
    harness = OperatorHarness(spec(replicas=3))
    harness.run_until_quiet()
    assert len(harness.sets()) == 3
    harness.edit(lambda one: one.update(replicas=1))
    harness.run_until_quiet()
    assert len(harness.sets()) == 1
    harness.edit(lambda one: one.update(replicas=0))
    harness.run_until_quiet()
    assert harness.sets() == []
    assert harness.condition("Ready") == ("True", "NoGroups")
    assert harness.condition("Available")[0] == "False"
    harness.edit(lambda one: one.update(replicas=2))
    harness.run_until_quiet()
    assert harness.status.ready == "2/2"


def test_suspend_and_resume() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    harness.edit(lambda one: one.update(suspend=True))
    harness.run_until_quiet()
    assert harness.sets() == []
    assert harness.status.reason == "Suspended"
    harness.edit(lambda one: one.update(suspend=False))
    harness.run_until_quiet()
    assert harness.status.ready == "2/2"


def test_paused_changes_wait_and_scaling_continues() -> None:
    harness = OperatorHarness(spec(rollout={"paused": True}))
    harness.run_until_quiet()
    assert harness.sets() == []
    harness.edit(lambda one: one.update(rollout={}))
    harness.run_until_quiet()
    first = harness.status.current_revision
    harness.edit(lambda one: one.update(rollout={"paused": True}, image="gllm:2", replicas=2))
    harness.run_until_quiet()
    assert harness.condition("Progressing") == ("False", "Paused")
    assert [group.revision for group in harness.status.groups] == [first, first]
    harness.edit(lambda one: one.update(rollout={}))
    harness.run_until_quiet()
    assert first not in {group.revision for group in harness.status.groups}


def test_an_invalid_spec_starts_no_pods() -> None:
    harness = OperatorHarness(spec(engine={"extraArgs": ["--pp", "4"]}))
    harness.run_until_quiet()
    assert harness.condition("SpecValid") == ("False", "SpecInvalid")
    assert harness.sets() == []
    harness.edit(lambda one: one.update(engine={}))
    harness.run_until_quiet()
    assert harness.status.ready == "1/1"
    serving = [group.name for group in harness.status.groups]
    harness.edit(lambda one: one.update(template={"spec": {"hostNetwork": True}}))
    harness.run_until_quiet()
    assert harness.condition("SpecValid")[0] == "False"
    assert [group.name for group in harness.status.groups] == serving
    assert harness.status.ready == "1/1"


def test_a_spec_that_cannot_be_decoded_changes_nothing() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    before = harness.sets()
    harness.edit(lambda one: one.update(replicas="many"))
    harness.run_until_quiet()
    assert harness.condition("SpecValid")[0] == "False"
    assert harness.sets() == before


@pytest.mark.parametrize(
    "kind",
    [
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceAccount",
        "Secret",
        "ControllerRevision",
        "StatefulSet",
    ],
)
def test_a_deleted_object_is_written_again(kind: str) -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    for one in harness.api.of_kind(kind):
        harness.api.drop(one)
    if kind == "Secret":
        # The operator may not read Secrets: it creates them when it starts, or when a pod cannot start.
        harness.start_operator()
    harness.run_until_quiet()
    assert harness.api.of_kind(kind)
    assert harness.status.ready == "1/1"


def test_an_edited_object_is_restored() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    service = next(one for one in harness.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    harness.api.edit(service, lambda one: one["spec"].update(selector={"app": "other"}), manager="kubectl-edit")
    harness.run_until_quiet()
    service = next(one for one in harness.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    assert service["spec"]["selector"] == {
        "gllm.dev/deployment": "smol",
        "gllm.dev/role": "master",
        "gllm.dev/serving": "true",
    }


def test_a_foreign_object_of_the_same_name_is_not_changed() -> None:
    harness = OperatorHarness()
    foreign = harness.api.put(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "smol", "namespace": "default"}, "spec": {"a": 1}}
    )
    harness.run_until_quiet()
    assert harness.api.objects["v1", "Service", "default", "smol"]["spec"] == foreign["spec"] == {"a": 1}
    assert harness.condition("Degraded") == ("True", "CannotWrite")
    harness.api.drop(foreign)
    harness.run_until_quiet()
    assert harness.condition("Degraded")[0] == "False"


def test_deletion_drains_and_removes_the_finalizer() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    assert harness.deployment is not None
    harness.api.begin_delete(harness.deployment)
    harness.run_until_quiet()
    assert harness.deployment is None
    assert harness.api.of_kind("StatefulSet") == []
    assert harness.api.of_kind("Pod") == []
    assert harness.reconciler.deployments == [], "kopf does not report a deletion while its watch is broken"


def test_a_deployment_that_was_replaced_unnoticed_is_read_again() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    assert harness.deployment is not None
    harness.api.drop(harness.deployment)
    harness.api.put(deployment())
    asyncio.run(harness.reconciler._refresh(KEY, harness.reconciler._states[KEY]))
    assert harness.reconciler._states[KEY].deployment["metadata"]["uid"] == harness.deployment["metadata"]["uid"]
    assert harness.reconciler._states[KEY].memory.applied == {}
    harness.run_until_quiet()
    assert harness.status.ready == "1/1"


def test_deletion_never_hangs() -> None:
    """Pods do not end, because nothing removes their finalizer."""
    harness = OperatorHarness(spec(rollout={"drainTimeoutSeconds": 30}))
    harness.run_until_quiet()
    assert harness.deployment is not None
    harness.api.begin_delete(harness.deployment)
    harness.world._pod_actions = lambda pod: []  # type: ignore[method-assign]
    for _ in range(80):
        harness.run_pass()
        harness.now += 5
    assert harness.deployment is None


def test_a_restart_annotation_replaces_all_groups() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    names = {group.name for group in harness.status.groups}
    assert harness.deployment is not None
    harness.api.edit(harness.deployment, lambda one: one["metadata"]["annotations"].update({"gllm.dev/restart": "now"}))
    harness.run_until_quiet()
    assert names.isdisjoint({group.name for group in harness.status.groups})
    assert harness.status.ready == "1/1"


def test_a_broken_group_drains_before_its_replacement_is_created() -> None:
    """There may be no accelerators for both."""
    harness = OperatorHarness(spec(rollout={"maxSurge": 0, "maxUnavailable": 1}, recovery={"deadlineSeconds": 10}))
    harness.run_until_quiet()
    (old,) = [group.name for group in harness.status.groups]
    harness.world._can_be_ready = lambda pod: old not in pod["metadata"]["name"]  # type: ignore[method-assign]
    for pod in harness.api.of_kind("Pod"):
        harness.world.set_ready(pod, False)
    harness.run_until_quiet()
    harness.now += 20
    harness.run_until_quiet()
    (new,) = [group.name for group in harness.status.groups]
    assert new != old
    sets = [(verb, name) for verb, kind, name in harness.api.writes if kind == "StatefulSet"]
    assert sets.index(("delete", f"{old}-m")) < sets.index(("apply", f"{new}-m"))


def test_an_edit_while_the_operator_writes_is_not_lost() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    done = []

    def edit_meanwhile(verb: str, name: str, after: bool) -> None:
        if after and verb == "apply" and not done:
            done.append(name)
            harness.edit(lambda one: one.update(replicas=3))
            assert harness.deployment is not None
            harness.reconciler.put(harness.deployment)

    service = next(one for one in harness.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    harness.api.drop(service)  # A write that leaves the status unchanged.
    harness.api.fail = edit_meanwhile
    harness.run_pass()
    assert done
    asyncio.run(harness.reconciler.reconcile(ObjectKey("default", "smol")))
    assert harness.status.observed_generation == (harness.deployment or {})["metadata"]["generation"]


@pytest.mark.timing
def test_a_late_lease_stops_writes_but_not_the_loop() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()

    async def go() -> None:
        leads = [False]
        cache = Cache()
        for one in sorted(harness.api.objects.values(), key=resource_version):
            cache.put(one)
        reconciler = Reconciler(harness.api, cache, harness.reconciler.dependencies, may_write=lambda: leads[0])
        assert harness.deployment is not None
        harness.edit(lambda one: one.update(replicas=2))
        reconciler.put(harness.deployment)
        before = len(harness.api.writes)
        reconciler.start(ObjectKey("default", "smol"), resync=60)
        await asyncio.sleep(0.1)
        assert harness.api.writes[before:] == []
        leads[0] = True
        await asyncio.sleep(1.5)
        assert len(harness.sets()) == 2
        reconciler.forget(ObjectKey("default", "smol"))

    asyncio.run(go())


def test_events_are_not_repeated() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    events = [one["reason"] for one in harness.api.of_kind("Event")]
    assert events.count("GroupCreated") == 1
    assert events.count("GroupReady") == 1
    for _ in range(5):
        harness.run_pass()
    assert len(harness.api.of_kind("Event")) == len(events)
