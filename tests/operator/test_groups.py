"""Groups as units: budgets, surge, names, revisions of other versions of the operator, owners, orphans."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.kube_world import ready_masters
from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.failed_creates import FailedCreate


def spec(**changes: Any) -> dict[str, Any]:
    return SPEC | changes


def image(tag: str) -> Any:
    return lambda one: one.update(image=f"gllm:{tag}")


def test_a_second_operator_stands_back_until_it_is_asked() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    assert harness.status.operator == "default/gllm-operator"
    harness.start_operator("other/gllm")
    before = len(harness.api.writes)
    harness.edit(image("2"))
    for _ in range(3):
        harness.run_pass()
        harness.world.step()
    assert [kind for _, kind, _ in harness.api.writes[before:]] == ["Event"]
    event = harness.api.of_kind("Event")[-1]
    assert event["reason"] == "StandsBack"
    assert "default/gllm-operator manages" in event["message"]
    assert "gllm.dev/operator=other/gllm" in event["message"]
    assert harness.deployment is not None
    harness.api.begin_delete(harness.deployment)
    harness.run_pass()
    assert harness.sets()
    harness.api.edit(harness.deployment, lambda one: one["metadata"].pop("deletionTimestamp"))
    # Handed over, the second one carries out the edit, and the first one stands back.
    harness.api.edit(
        harness.deployment, lambda one: one["metadata"].update(annotations={"gllm.dev/operator": "other/gllm"})
    )
    harness.run_until_quiet()
    assert harness.status.operator == "other/gllm"
    assert harness.status.ready == "1/1"
    assert {group.revision for group in harness.status.groups} == {harness.status.update_revision}
    harness.start_operator()
    before = len(harness.api.writes)
    harness.run_pass()
    assert [kind for _, kind, _ in harness.api.writes[before:]] == ["Event"]


def test_a_deployment_is_marked_before_anything_is_written() -> None:
    harness = OperatorHarness()
    harness.run_pass()
    assert harness.api.writes[0] == ("patch", "LLMDeployment", "smol")
    assert harness.deployment is not None
    assert harness.deployment["metadata"]["annotations"]["gllm.dev/operator"] == "default/gllm-operator"


def test_a_revision_that_comes_back_surges_no_further_and_reuses_no_name() -> None:
    """A -> B -> A while the first group of A still drains: it holds its accelerators."""
    harness = OperatorHarness()
    harness.run_until_quiet()
    (first,) = [group.name for group in harness.status.groups]
    drains = harness.world._pod_actions
    harness.world._pod_actions = lambda pod: (  # type: ignore[method-assign]
        [] if first in pod["metadata"]["name"] and "deletionTimestamp" in pod["metadata"] else drains(pod)
    )
    harness.edit(image("2"))
    harness.run_until_quiet()
    assert {group.phase for group in harness.status.groups} == {"Draining", "Ready"}
    harness.edit(image("1"))
    harness.run_until_quiet()
    assert len(harness.sets()) == 2, "three groups with replicas 1 and maxSurge 1"
    harness.world._pod_actions = drains  # type: ignore[method-assign]
    harness.run_until_quiet()
    (last,) = [group.name for group in harness.status.groups]
    assert harness.status.ready == "1/1"
    assert last.rpartition("-")[0] == first.rpartition("-")[0]
    assert last != first


def test_an_ordinal_that_comes_back_reuses_no_name() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    before = {group.name for group in harness.status.groups}
    for replicas in (1, 2):
        harness.edit(lambda one, replicas=replicas: one.update(replicas=replicas))
        harness.run_until_quiet()
    assert len(before & {group.name for group in harness.status.groups}) == 1


@pytest.mark.parametrize("orphaned", [True, False])
def test_orphans_continue_to_serve(orphaned: bool) -> None:
    """kubectl delete --cascade=orphan: before or after the garbage collector has removed the owner references."""
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    assert harness.deployment is not None
    if orphaned:
        for one in harness.api.of_kind("StatefulSet"):
            harness.api.edit(one, lambda found: found["metadata"].pop("ownerReferences"))
    else:
        harness.api.edit(harness.deployment, lambda one: one["metadata"]["finalizers"].append("orphan"))
    harness.api.begin_delete(harness.deployment)
    harness.run_pass()
    if not orphaned:
        assert (harness.deployment or {})["metadata"]["finalizers"] == ["orphan"]
    else:
        assert harness.deployment is None
    assert all("deletionTimestamp" not in one["metadata"] for one in harness.sets())
    assert len(ready_masters(harness.api)) == 2


def test_labels_annotations_and_service_settings_pass_through() -> None:
    service = {
        "metadata": {"annotations": {"lb.example.com/kind": "internal"}},
        "spec": {"loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local"},
    }
    common = {"labels": {"team": "a", "gllm.dev/deployment": "other"}, "annotations": {"owner": "b"}}
    harness = OperatorHarness(
        spec(objectMeta=common, server={"serviceType": "LoadBalancer", "serviceTemplate": service})
    )
    harness.run_until_quiet()
    groups = {group.name for group in harness.status.groups}
    mine = [one for one in harness.api.objects.values() if one["kind"] not in ("Pod", "Event", "LLMDeployment")]
    assert len(mine) >= 8
    for one in mine:
        assert one["metadata"]["labels"]["team"] == "a", one["kind"]
        assert one["metadata"]["labels"]["gllm.dev/deployment"] == "smol"
        assert one["metadata"]["annotations"]["owner"] == "b"
    (found,) = [one for one in mine if (one["kind"], one["metadata"]["name"]) == ("Service", "smol")]
    assert found["metadata"]["annotations"]["lb.example.com/kind"] == "internal"
    assert found["spec"]["externalTrafficPolicy"] == "Local"
    assert found["spec"]["type"] == "LoadBalancer"
    harness.edit(lambda one: one["objectMeta"]["labels"].update(team="c"))
    harness.run_until_quiet()
    assert {group.name for group in harness.status.groups} == groups, "no pod changes"
    assert harness.sets()[0]["metadata"]["labels"]["team"] == "c"
    harness.edit(lambda one: one["server"].update(serviceTemplate={"spec": {"selector": {}}}))
    harness.run_until_quiet()
    assert harness.condition("SpecValid") == ("False", "SpecInvalid")


def test_an_evicted_master_is_replaced_with_its_group_while_it_drains() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    (old,) = [group.name for group in harness.status.groups]
    (master,) = ready_masters(harness.api)
    harness.world.evict(master)
    actions = harness.world._pod_actions
    harness.world._pod_actions = lambda pod: (  # type: ignore[method-assign]
        [] if "deletionTimestamp" in pod["metadata"] else actions(pod)
    )
    harness.run_until_quiet()
    assert {group.phase for group in harness.status.groups} == {"Draining", "Ready"}
    assert harness.status.ready == "1/1"
    harness.world._pod_actions = actions  # type: ignore[method-assign]
    harness.run_until_quiet()
    assert [group.phase for group in harness.status.groups] == ["Ready"]
    assert harness.status.groups[0].name != old


def test_an_evicted_slave_joins_its_group_again() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    names = [group.name for group in harness.status.groups]
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    harness.world.evict(slave)
    harness.run_until_quiet()
    assert harness.status.ready == "1/1"
    assert [group.name for group in harness.status.groups] == names


def test_evictions_take_no_more_pods_than_groups() -> None:
    """Whatever pods they are: two pods may be of two groups. In a rollout the budget does not grow with the pods."""
    harness = OperatorHarness(spec(replicas=2, disruption={"maxUnavailableGroups": 1, "waitForRoomSeconds": 0}))
    harness.run_until_quiet()
    (budget,) = harness.api.of_kind("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]
    matching = budget["spec"]["selector"]["matchLabels"].items()
    assert all(matching <= pod["metadata"]["labels"].items() for pod in harness.api.of_kind("Pod"))


def test_a_newer_operator_does_not_touch_running_groups_and_shows_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """It renders the same spec in another way. A set that is lost meanwhile comes back as the group's others are."""

    def period(one: Any) -> int:
        return int(one["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"])

    harness = OperatorHarness()
    harness.run_until_quiet()
    old, before = harness.status.update_revision, period(harness.sets()[0])
    monkeypatch.setattr("gllm_operator.build.probes._LIVENESS_PERIOD", before + 2)
    harness.start_operator()
    harness.run_pass()
    assert harness.status.update_revision != old
    assert harness.condition("Progressing") == ("True", "RollingOut")
    (slaves,) = [one for one in harness.sets("slave") if f"-{old}-" in one["metadata"]["name"]]
    harness.api.drop(slaves)
    harness.run_pass()
    found = {one["metadata"]["name"]: period(one) for one in harness.sets() + harness.sets("slave")}
    assert found[slaves["metadata"]["name"]] == before
    assert all(seconds == before + 2 * (f"-{old}-" not in name) for name, seconds in found.items())
    harness.run_until_quiet()
    assert {period(one) for one in harness.sets()} == {before + 2}
    assert harness.status.ready == "1/1"


def test_a_failed_rollout_of_a_newer_operator_returns_to_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    (good,) = harness.sets()
    monkeypatch.setattr("gllm_operator.build.probes._LIVENESS_PERIOD", 7)
    harness.start_operator()
    harness.run_pass()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.run_until_quiet()
    harness.now += 3000
    harness.run_until_quiet()
    assert harness.condition("RolledBack") == ("True", "RolledBack")
    harness.edit(lambda one: one.update(replicas=2))
    harness.run_until_quiet()
    first, second = harness.sets()
    assert (
        first["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
        == (second["spec"]["template"]["spec"]["containers"][0]["livenessProbe"])
    )
    assert good["metadata"]["name"] in (first["metadata"]["name"], second["metadata"]["name"])


def test_groups_of_an_operator_that_stored_no_rendering_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its revisions are plain sources. They can be read, to roll back to them, but not rendered for running groups."""
    harness = OperatorHarness()
    harness.run_until_quiet()
    (revision,) = harness.api.of_kind("ControllerRevision")
    harness.api.edit(revision, lambda one: one.update(data=one["data"]["source"]))
    old = harness.sets()[0] | {"metadata": harness.sets()[0]["metadata"]}
    monkeypatch.setattr("gllm_operator.build.probes._LIVENESS_PERIOD", 7)
    harness.start_operator()
    harness.run_pass()
    assert harness.condition("Progressing") == ("True", "RollingOut")
    assert old in harness.sets()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.run_until_quiet()
    harness.now += 3000
    harness.run_until_quiet()
    assert harness.condition("RolledBack") == ("True", "RolledBack")
    assert harness.sets() == [old]


def endpoints(harness: OperatorHarness) -> set[str]:
    """The groups whose masters the Service selects and Kubernetes includes."""
    service = harness.api.objects["v1", "Service", "default", "smol"]
    wanted = service["spec"]["selector"].items()
    return {
        pod["metadata"]["labels"]["gllm.dev/group"]
        for pod in ready_masters(harness.api)
        if wanted <= pod["metadata"]["labels"].items()
    }


def lose_slave(harness: OperatorHarness, group: str, ready: bool = False) -> None:
    """The master stays ready, as that of a recovering group is."""
    (slave,) = [one for one in harness.api.of_kind("Pod") if one["metadata"]["name"].startswith(f"{group}-s-")]
    harness.world.set_ready(slave, ready)


def test_a_recovering_group_leaves_the_service_while_another_serves() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    first, second = sorted(group.name for group in harness.status.groups)
    assert endpoints(harness) == {first, second}
    lose_slave(harness, first)
    harness.run_pass()
    assert endpoints(harness) == {second}
    lose_slave(harness, second)  # No group serves: both wait for requests, as one group alone does.
    harness.run_pass()
    assert endpoints(harness) == {first, second}
    lose_slave(harness, first, ready=True)
    harness.run_pass()
    assert endpoints(harness) == {first}
    harness.run_until_quiet()
    assert endpoints(harness) == {first, second}
    before = len(harness.api.writes)
    harness.run_pass()
    assert harness.api.writes[before:] == []


def test_one_group_alone_stays_in_the_service() -> None:
    harness = OperatorHarness()
    harness.run_until_quiet()
    (name,) = [group.name for group in harness.status.groups]
    lose_slave(harness, name)
    harness.run_pass()
    assert endpoints(harness) == {name}


def test_masters_of_an_operator_that_set_no_label_stay_in_the_service() -> None:
    harness = OperatorHarness(spec(replicas=2))
    harness.run_until_quiet()
    for pod in harness.api.of_kind("Pod"):
        harness.api.edit(pod, lambda one: one["metadata"]["labels"].pop("gllm.dev/serving", None))
    seen = []
    for _ in range(3):
        harness.start_operator()
        harness.run_pass()
        seen.append(len(endpoints(harness)))
    assert seen == [2, 2, 2]


def test_without_the_right_to_label_pods_the_service_selects_all_masters() -> None:
    harness = OperatorHarness()

    def forbid(verb: str, name: str, done: bool) -> None:
        if verb == "patch" and name.endswith("-m-0"):
            raise ApiError(403, "Forbidden", "may not patch pods")

    harness.run_until_quiet()
    for pod in harness.api.of_kind("Pod"):
        harness.api.edit(pod, lambda one: one["metadata"]["labels"].pop("gllm.dev/serving", None))
    harness.api.fail = forbid
    harness.run_pass()
    assert len(endpoints(harness)) == 1


def test_no_secret_is_in_an_environment_and_a_missing_one_is_told() -> None:
    source = {"source": "hf://org/name", "tokenSecretRef": {"name": "hub", "key": "token"}}
    server = {"apiKeySecretRef": {"name": "clients", "key": "key"}}
    harness = OperatorHarness(spec(model=source, server=server))
    harness.run_until_quiet()
    for one in harness.sets() + harness.sets("slave"):
        pod = one["spec"]["template"]["spec"]
        master = one["metadata"]["labels"]["gllm.dev/role"] == "master"
        containers = [*pod["containers"], *pod["initContainers"]]
        assert not any("secretKeyRef" in str(container) for container in containers)
        mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        assert mounted == {"smol-keys", "hub"} | ({"clients"} if master else set())
        served = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert "hub-token" not in served, "only the download has the hub's token"
    # The operator may not read Secrets: an event tells it that the one with the keys is gone.
    (secret,) = harness.api.of_kind("Secret")
    harness.api.drop(secret)
    (slave,) = [one for one in harness.api.of_kind("Pod") if "-s-" in one["metadata"]["name"]]
    waiting = [{"name": "gllm", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]
    harness.api.edit(slave, lambda one: one.update(status={"phase": "Pending", "containerStatuses": waiting}))
    uid = slave["metadata"]["uid"]
    failed = FailedCreate(harness.now, 'MountVolume.SetUp failed for volume "link-keys" : secret "smol-keys" not found')
    harness.reconciler.dependencies.failed_create = lambda one: failed if one == uid else None
    harness.run_pass()
    failure = harness.status.groups[0].last_failure
    assert failure is not None
    assert (failure.reason, failure.rank) == ("FailedMount", 1)
    assert harness.api.of_kind("Secret")
