"""The operator against an API server in memory: users' actions and failures, and what follows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fixtures.kube_world import ready_masters
from fixtures.operator_bench import SPEC, Bench
from gllm_operator.controller.reconcile import Reconciler
from gllm_operator.kube.cache import Cache
from gllm_operator.objects import ObjectKey, seconds_of


def spec(**changes: Any) -> dict[str, Any]:
    return SPEC | changes


def image(tag: str) -> Any:
    return lambda one: one.update(image=f"gllm:{tag}")


def test_a_new_deployment_serves() -> None:
    bench = Bench()
    bench.run_until_quiet()
    status = bench.status
    assert (status.ready, status.reason, status.replicas) == ("1/1", "Ready", 1)
    assert [group.ready_ranks for group in status.groups] == ["2/2"]
    assert status.current_revision == status.update_revision != ""
    assert bench.condition("Progressing") == ("True", "Complete")
    kinds = {one["kind"] for one in bench.api.objects.values()}
    assert {
        "Service",
        "Secret",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceAccount",
        "ControllerRevision",
    } <= kinds


def test_the_status_has_the_loading_progress() -> None:
    bench = Bench()
    bench.world.eager = True
    waits = []
    while bench.status.groups == () or bench.status.groups[0].phase == "Pending":
        bench.run_pass()
        bench.world.step()
        bench.now += 1
    for bench.loaded in (None, 0.074, 0.5, 1.0):
        bench.world.bad_revisions.add(bench.status.update_revision)  # It stays in the phase Loading.
        waits.append(bench.run_pass())
        bench.now += 2
        (group,) = bench.status.groups
        assert group.load_percent == (None if bench.loaded is None else int(100 * bench.loaded))
        ready = next(one for one in bench.status.conditions if one.type == "Ready")
        assert ("% of the weights loaded" in ready.message) == (bench.loaded is not None)
    assert all(wait is not None and wait <= 2.1 for wait in waits)
    assert [one["reason"] for one in bench.api.of_kind("Event")].count("GroupLoading") == 1
    bench.world.bad_revisions.clear()
    bench.run_until_quiet()
    (group,) = bench.status.groups
    assert (group.phase, group.load_percent) == ("Ready", None)


def test_a_failed_group_is_not_queried() -> None:
    bench = Bench(spec(recovery={"policy": "None"}))
    bench.run_pass()
    bench.run_pass()
    bench.world.bad_revisions.add(bench.status.update_revision)
    bench.run_until_quiet()
    bench.now += 9000
    bench.run_until_quiet()
    assert bench.status.groups[0].phase == "Failed"
    assert bench.run_pass() is None


def test_an_idle_deployment_costs_no_writes() -> None:
    bench = Bench()
    bench.run_until_quiet()
    before = len(bench.api.writes)
    for _ in range(20):
        assert bench.run_pass() is None
        bench.now += 300
    assert bench.api.writes[before:] == []


def test_a_new_operator_writes_nothing_that_changes_anything() -> None:
    bench = Bench()
    bench.run_until_quiet()
    versions = {where: one["metadata"]["resourceVersion"] for where, one in bench.api.objects.items()}
    bench.start_operator()
    bench.run_pass()
    assert {where: one["metadata"]["resourceVersion"] for where, one in bench.api.objects.items()} == versions


def test_rollout_surges_before_it_drains() -> None:
    bench = Bench(spec(replicas=2))
    bench.run_until_quiet()
    bench.edit(image("2"))
    least = 2
    for _ in range(60):
        bench.run_pass()
        bench.world.step()
        bench.now += 1
        least = min(least, len(ready_masters(bench.api)))
        assert len([one for one in bench.sets() if "deletionTimestamp" not in one["metadata"]]) <= 3
    assert least == 2
    assert bench.status.ready == "2/2"
    assert bench.status.updated_replicas == 2
    assert {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in bench.sets()} == {"gllm:2"}


def test_resharding_is_a_rollout() -> None:
    bench = Bench(spec(accelerator={"type": "cpu", "perPod": 2}, parallelism={"pipeline": 2}))
    bench.run_until_quiet()
    assert bench.sets("slave") == []
    bench.edit(lambda one: one.update(parallelism={"pipeline": 4, "tensor": 2, "expert": 2}))
    bench.run_until_quiet()
    (slaves,) = bench.sets("slave")
    assert slaves["spec"]["replicas"] == 3
    assert slaves["spec"]["ordinals"] == {"start": 1}
    assert bench.status.shape is not None
    assert bench.status.shape.summary == "PP4xTP2xEP2"
    assert bench.status.ready == "1/1"


def test_a_bad_revision_is_rolled_back() -> None:
    bench = Bench()
    bench.run_until_quiet()
    good = bench.status.current_revision
    bench.edit(image("bad"))
    bench.run_pass()
    bench.world.bad_revisions.add(bench.status.update_revision)
    bench.run_until_quiet()
    bench.now += 3000
    bench.run_until_quiet()
    assert bench.condition("RolledBack") == ("True", "RolledBack")
    assert bench.status.failed_revision == bench.status.update_revision != good
    assert {group.revision for group in bench.status.groups} == {good}
    assert len(ready_masters(bench.api, good)) == 1
    bench.edit(image("3"))
    bench.run_until_quiet()
    assert bench.condition("RolledBack") == ("False", "NotRolledBack")
    assert bench.status.ready == "1/1"


def test_a_failed_first_revision_is_retried_and_reported() -> None:
    bench = Bench()
    bench.run_pass()
    bench.run_pass()
    bench.world.bad_revisions.add(bench.status.update_revision)
    bench.run_until_quiet()
    for _ in range(30):
        bench.now += 3000
        bench.run_until_quiet()
    assert bench.condition("Degraded") == ("True", "GroupFailed")
    assert bench.status.places[0].restarts == 5
    assert bench.status.reason == "GroupFailed"


def test_a_lost_slave_joins_its_group_again() -> None:
    bench = Bench()
    bench.run_until_quiet()
    (group,) = bench.status.groups
    slave = next(pod for pod in bench.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    bench.world.crash(slave, 137, "out of memory")
    master = next(pod for pod in bench.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "master")
    bench.world.set_ready(master, False)
    bench.run_pass()
    (broken,) = bench.status.groups
    assert broken.phase == "Recovering"
    assert broken.last_failure is not None
    assert (broken.last_failure.exit_code, broken.last_failure.rank) == (137, 1)
    bench.run_until_quiet()
    assert [one.name for one in bench.status.groups] == [group.name]
    assert bench.status.ready == "1/1"


def test_a_recovered_group_is_ready_since_its_recovery() -> None:
    """Its master's pod was ready throughout, but the group must not count as stable for that time."""
    bench = Bench()
    bench.run_until_quiet()
    bench.now += 1000
    slave = next(pod for pod in bench.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    bench.world.set_ready(slave, False)
    bench.run_pass()
    assert bench.status.groups[0].phase == "Recovering"
    bench.now += 5
    recovered = bench.now
    bench.world.set_ready(bench.api.objects["v1", "Pod", "default", slave["metadata"]["name"]], True)
    bench.run_pass()
    (group,) = bench.status.groups
    assert group.phase == "Ready"
    assert seconds_of(group.ready_at) == int(recovered)


def test_pods_on_a_lost_node_are_replaced() -> None:
    bench = Bench(spec(parallelism={"pipeline": 3}))
    bench.run_until_quiet()
    names = [one.name for one in bench.status.groups]
    slave = next(pod for pod in bench.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    bench.world.lost_nodes.add(slave["spec"]["nodeName"])
    bench.run_until_quiet()
    assert bench.status.ready == "1/1"
    assert [one.name for one in bench.status.groups] == names
    assert all(pod["spec"]["nodeName"] not in bench.world.lost_nodes for pod in bench.api.of_kind("Pod"))


def test_a_group_with_kept_pods_on_a_lost_node_is_replaced() -> None:
    bench = Bench(spec(recovery={"lostPods": "Keep", "deadlineSeconds": 60}))
    bench.run_until_quiet()
    slave = next(pod for pod in bench.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    master = next(pod for pod in bench.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "master")
    bench.world.lost_nodes.add(slave["spec"]["nodeName"])
    if master["spec"]["nodeName"] not in bench.world.lost_nodes:
        bench.world.set_ready(master, False)
        bench.world._can_be_ready = lambda pod: "-2-" in pod["metadata"]["name"]  # type: ignore[method-assign]
    bench.run_until_quiet()
    for _ in range(8):
        bench.now += 30
        bench.run_until_quiet()
    assert bench.status.ready == "1/1"
    assert max(group.instance for group in bench.status.groups) == 2


def test_scaling() -> None:
    bench = Bench(spec(replicas=3))
    bench.run_until_quiet()
    assert len(bench.sets()) == 3
    bench.edit(lambda one: one.update(replicas=1))
    bench.run_until_quiet()
    assert len(bench.sets()) == 1
    bench.edit(lambda one: one.update(replicas=0))
    bench.run_until_quiet()
    assert bench.sets() == []
    assert bench.condition("Ready") == ("False", "NoGroups")
    bench.edit(lambda one: one.update(replicas=2))
    bench.run_until_quiet()
    assert bench.status.ready == "2/2"


def test_suspend_and_resume() -> None:
    bench = Bench(spec(replicas=2))
    bench.run_until_quiet()
    bench.edit(lambda one: one.update(suspend=True))
    bench.run_until_quiet()
    assert bench.sets() == []
    assert bench.status.reason == "Suspended"
    bench.edit(lambda one: one.update(suspend=False))
    bench.run_until_quiet()
    assert bench.status.ready == "2/2"


def test_paused_changes_wait_and_scaling_continues() -> None:
    bench = Bench(spec(rollout={"paused": True}))
    bench.run_until_quiet()
    assert bench.sets() == []
    bench.edit(lambda one: one.update(rollout={}))
    bench.run_until_quiet()
    first = bench.status.current_revision
    bench.edit(lambda one: one.update(rollout={"paused": True}, image="gllm:2", replicas=2))
    bench.run_until_quiet()
    assert bench.condition("Progressing") == ("False", "Paused")
    assert [group.revision for group in bench.status.groups] == [first, first]
    bench.edit(lambda one: one.update(rollout={}))
    bench.run_until_quiet()
    assert first not in {group.revision for group in bench.status.groups}


def test_an_invalid_spec_starts_no_pods() -> None:
    bench = Bench(spec(engine={"extraArgs": ["--pp", "4"]}))
    bench.run_until_quiet()
    assert bench.condition("SpecValid") == ("False", "SpecInvalid")
    assert bench.sets() == []
    bench.edit(lambda one: one.update(engine={}))
    bench.run_until_quiet()
    assert bench.status.ready == "1/1"
    serving = [group.name for group in bench.status.groups]
    bench.edit(lambda one: one.update(template={"spec": {"hostNetwork": True}}))
    bench.run_until_quiet()
    assert bench.condition("SpecValid")[0] == "False"
    assert [group.name for group in bench.status.groups] == serving
    assert bench.status.ready == "1/1"


def test_a_spec_that_cannot_be_decoded_changes_nothing() -> None:
    bench = Bench()
    bench.run_until_quiet()
    before = bench.sets()
    bench.edit(lambda one: one.update(replicas="many"))
    bench.run_until_quiet()
    assert bench.condition("SpecValid")[0] == "False"
    assert bench.sets() == before


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
    bench = Bench()
    bench.run_until_quiet()
    for one in bench.api.of_kind(kind):
        bench.api.drop(one)
    if kind == "Secret":
        # The operator may not read Secrets: it creates them when it starts, or when a pod cannot start.
        bench.start_operator()
    bench.run_until_quiet()
    assert bench.api.of_kind(kind)
    assert bench.status.ready == "1/1"


def test_an_edited_object_is_restored() -> None:
    bench = Bench()
    bench.run_until_quiet()
    service = next(one for one in bench.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    bench.api.edit(service, lambda one: one["spec"].update(selector={"app": "other"}), manager="kubectl-edit")
    bench.run_until_quiet()
    service = next(one for one in bench.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    assert service["spec"]["selector"] == {"gllm.dev/deployment": "smol", "gllm.dev/role": "master"}


def test_a_foreign_object_of_the_same_name_is_not_changed() -> None:
    bench = Bench()
    foreign = bench.api.put(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "smol", "namespace": "default"}, "spec": {"a": 1}}
    )
    bench.run_until_quiet()
    assert bench.api.objects["v1", "Service", "default", "smol"]["spec"] == foreign["spec"] == {"a": 1}
    assert bench.condition("Degraded") == ("True", "CannotWrite")
    bench.api.drop(foreign)
    bench.run_until_quiet()
    assert bench.condition("Degraded")[0] == "False"


def test_deletion_drains_and_removes_the_finalizer() -> None:
    bench = Bench(spec(replicas=2))
    bench.run_until_quiet()
    assert bench.deployment is not None
    bench.api.begin_delete(bench.deployment)
    bench.run_until_quiet()
    assert bench.deployment is None
    assert bench.api.of_kind("StatefulSet") == []
    assert bench.api.of_kind("Pod") == []


def test_deletion_never_hangs() -> None:
    """Pods do not end, because nothing removes their finalizer."""
    bench = Bench(spec(rollout={"drainTimeoutSeconds": 30}))
    bench.run_until_quiet()
    assert bench.deployment is not None
    bench.api.begin_delete(bench.deployment)
    bench.world._pod_actions = lambda pod: []  # type: ignore[method-assign]
    for _ in range(80):
        bench.run_pass()
        bench.now += 5
    assert bench.deployment is None


def test_a_restart_annotation_replaces_all_groups() -> None:
    bench = Bench()
    bench.run_until_quiet()
    names = {group.name for group in bench.status.groups}
    assert bench.deployment is not None
    bench.api.edit(bench.deployment, lambda one: one["metadata"].update(annotations={"gllm.dev/restart": "now"}))
    bench.run_until_quiet()
    assert names.isdisjoint({group.name for group in bench.status.groups})
    assert bench.status.ready == "1/1"


def test_a_broken_group_drains_before_its_replacement_is_created() -> None:
    """There may be no accelerators for both."""
    bench = Bench(spec(rollout={"maxSurge": 0, "maxUnavailable": 1}, recovery={"deadlineSeconds": 10}))
    bench.run_until_quiet()
    (old,) = [group.name for group in bench.status.groups]
    bench.world._can_be_ready = lambda pod: old not in pod["metadata"]["name"]  # type: ignore[method-assign]
    for pod in bench.api.of_kind("Pod"):
        bench.world.set_ready(pod, False)
    bench.run_until_quiet()
    bench.now += 20
    bench.run_until_quiet()
    (new,) = [group.name for group in bench.status.groups]
    assert new != old
    sets = [(verb, name) for verb, kind, name in bench.api.writes if kind == "StatefulSet"]
    assert sets.index(("delete", f"{old}-m")) < sets.index(("apply", f"{new}-m"))


def test_an_edit_while_the_operator_writes_is_not_lost() -> None:
    bench = Bench()
    bench.run_until_quiet()
    done = []

    def edit_meanwhile(verb: str, name: str, after: bool) -> None:
        if after and verb == "apply" and not done:
            done.append(name)
            bench.edit(lambda one: one.update(replicas=3))
            assert bench.deployment is not None
            bench.reconciler.put(bench.deployment)

    service = next(one for one in bench.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    bench.api.drop(service)  # A write that leaves the status unchanged.
    bench.api.fail = edit_meanwhile
    bench.run_pass()
    assert done
    asyncio.run(bench.reconciler.reconcile(ObjectKey("default", "smol")))
    assert bench.status.observed_generation == (bench.deployment or {})["metadata"]["generation"]


@pytest.mark.timing
def test_a_late_lease_stops_writes_but_not_the_loop() -> None:
    bench = Bench()
    bench.run_until_quiet()

    async def go() -> None:
        leads = [False]
        cache = Cache()
        for one in bench.api.objects.values():
            cache.put(one)
        reconciler = Reconciler(bench.api, cache, bench.reconciler.dependencies, may_write=lambda: leads[0])
        assert bench.deployment is not None
        bench.edit(lambda one: one.update(replicas=2))
        reconciler.put(bench.deployment)
        before = len(bench.api.writes)
        reconciler.start(ObjectKey("default", "smol"), resync=60)
        await asyncio.sleep(0.1)
        assert bench.api.writes[before:] == []
        leads[0] = True
        await asyncio.sleep(1.5)
        assert len(bench.sets()) == 2
        reconciler.forget(ObjectKey("default", "smol"))

    asyncio.run(go())


def test_events_are_not_repeated() -> None:
    bench = Bench()
    bench.run_until_quiet()
    events = [one["reason"] for one in bench.api.of_kind("Event")]
    assert events.count("GroupCreated") == 1
    assert events.count("GroupReady") == 1
    for _ in range(5):
        bench.run_pass()
    assert len(bench.api.of_kind("Event")) == len(events)
