"""The status through rollouts, scaling and failures: what `kubectl get`, `kubectl wait` and GitOps tools read."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.api.status import LLMDeploymentStatus


def serving(**changes: Any) -> OperatorHarness:
    harness = OperatorHarness(SPEC | changes)
    harness.run_until_quiet()
    assert harness.status.reason in ("Ready", "NoGroups")
    return harness


def steps(harness: OperatorHarness, limit: int = 60) -> list[LLMDeploymentStatus]:
    """Pass, then the cluster acts, until Ready is True. Returns the status after each pass."""
    harness.world.eager = True
    found = []
    for _ in range(limit):
        harness.run_pass()
        found.append(harness.status)
        if harness.condition("Ready")[0] == "True":
            return found
        harness.world.step()
        harness.now += 1
    raise AssertionError("never ready")


def message(harness: OperatorHarness, type: str) -> str:
    return next(one.message for one in harness.status.conditions if one.type == type)


def columns(status: LLMDeploymentStatus) -> tuple[str, int, str]:
    return status.ready, status.updated_replicas, status.reason


def new_pod(harness: OperatorHarness, role: str = "master") -> dict[str, Any]:
    """A pod of the spec's revision."""
    return next(
        pod
        for pod in harness.api.of_kind("Pod")
        if pod["metadata"]["labels"]["gllm.dev/revision"] == harness.status.update_revision
        and pod["metadata"]["labels"]["gllm.dev/role"] == role
    )


def roll_out(harness: OperatorHarness) -> None:
    """Edit the image, and go on until the new group has its pods, which never become ready."""
    harness.edit(lambda one: one.update(image="gllm:nope"))
    harness.run_pass()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.world.eager = True
    for _ in range(3):
        harness.world.step()
        harness.run_pass()


def test_ready_waits_for_the_new_revision() -> None:
    harness = serving()
    assert columns(harness.status) == ("1/1", 1, "Ready")
    harness.edit(lambda one: one.update(image="gllm:2"))
    generation = (harness.deployment or {})["metadata"]["generation"]
    history = steps(harness)
    assert {columns(one) for one in history[:-2]} == {("1/1", 0, "RollingOut")}
    assert columns(history[-2]) == ("1/1", 1, "RollingOut"), "the new group serves, and the old one drains"
    assert columns(history[-1]) == ("1/1", 1, "Ready")
    for status in history:
        assert status.observed_generation == generation
        assert {one.observed_generation for one in status.conditions} == {generation}
        found = {one.type: (one.status, one.reason) for one in status.conditions}
        assert found["Available"] == ("True", "EnoughGroups"), "something serves throughout"
        assert (found["Ready"][0] == "True") == (found["Reconciling"][0] == "False")
        assert found["Stalled"] == ("False", "NotStalled")


def test_an_edit_without_a_new_revision_is_ready_when_it_is_written() -> None:
    harness = serving()
    harness.edit(lambda one: one.update(server={"servicePort": 81}))
    harness.run_pass()
    assert harness.condition("Ready") == ("False", "Writing")
    harness.run_pass()
    assert harness.condition("Ready") == ("True", "AllGroupsReady")
    service = next(one for one in harness.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    harness.api.edit(service, lambda one: one["spec"].update(selector={}), manager="kubectl-edit")
    harness.run_pass()
    assert harness.condition("Ready") == ("True", "AllGroupsReady"), "a repair is no change of the spec"


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        ({"reason": "ImagePullBackOff", "message": 'Back-off pulling image "gllm:nope"'}, "ImagePullBackOff: Back-off"),
        ({"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}, 'secret "x" not found'),
    ],
)
def test_the_cause_that_stops_the_new_group_is_told(waiting: dict[str, Any], words: str) -> None:
    harness = serving()
    roll_out(harness)
    pod = new_pod(harness)
    state = [{"name": "gllm", "restartCount": 0, "state": {"waiting": waiting}}]
    harness.api.edit(pod, lambda one: one["status"].update(containerStatuses=state))
    harness.run_pass()
    assert columns(harness.status) == ("1/1", 0, "RollingOut")
    for type in ("Ready", "Progressing", "Reconciling"):
        assert words in message(harness, type), type
    new = next(one for one in harness.status.groups if one.revision == harness.status.update_revision)
    assert new.phase == "Pending", "nothing loads"
    # When the cause is gone, it is no longer told.
    harness.api.edit(new_pod(harness), lambda one: one["status"].update(containerStatuses=[]))
    harness.run_pass()
    assert words not in message(harness, "Ready")
    assert harness.status.groups[0].last_failure is None


def test_the_exit_line_of_the_new_group_is_told() -> None:
    harness = serving()
    roll_out(harness)
    harness.world.crash(new_pod(harness), 1, "loading\nValueError: no such model")
    harness.run_pass()
    assert "(exit status 1): ValueError: no such model" in message(harness, "Progressing")


def test_a_pod_without_a_place_is_told() -> None:
    harness = serving()
    harness.edit(lambda one: one.update(image="gllm:2"))
    harness.run_pass()
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
    }
    harness.world.eager = True
    harness.world.step()
    harness.api.edit(new_pod(harness), lambda one: one["status"].update(conditions=[condition]))
    harness.run_pass()
    assert "Insufficient nvidia.com/gpu" in message(harness, "Progressing")
    assert columns(harness.status) == ("1/1", 0, "RollingOut")


def test_scaling_is_told() -> None:
    harness = serving()
    harness.edit(lambda one: one.update(replicas=3))
    history = steps(harness)
    assert columns(history[0]) == ("1/3", 1, "GroupsStarting")
    assert {one.reason for one in history[:-1]} == {"GroupsStarting"}
    assert columns(history[-1]) == ("3/3", 3, "Ready")
    harness.edit(lambda one: one.update(replicas=0))
    harness.run_until_quiet()
    assert columns(harness.status) == ("0/0", 0, "NoGroups")
    assert harness.condition("Ready") == ("True", "NoGroups")
    assert harness.condition("Available") == ("False", "TooFewGroups")
    harness.edit(lambda one: one.update(replicas=2))
    history = steps(harness)
    assert {columns(one) for one in history[:-1]} <= {("0/2", 0, "GroupsStarting"), ("1/2", 1, "GroupsStarting")}
    assert harness.condition("Progressing") == ("True", "Complete")


def test_a_recovering_group_is_told() -> None:
    harness = serving()
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    harness.world.crash(slave, 137, "out of memory")
    harness.run_pass()
    assert columns(harness.status) == ("0/1", 0, "GroupRecovering")
    assert "out of memory" in message(harness, "Ready")


def test_deletion_is_told() -> None:
    harness = serving(replicas=2)
    assert harness.deployment is not None
    harness.api.begin_delete(harness.deployment)
    harness.run_pass()
    assert harness.status.reason == "Deleting"
    assert harness.condition("Ready") == harness.condition("Progressing") == ("False", "Deleting")
    assert "2 groups finish" in message(harness, "Ready")


def test_states_that_need_help_are_stalled() -> None:
    harness = serving()
    harness.edit(lambda one: one.update(engine={"extraArgs": ["--pp", "4"]}))
    harness.run_until_quiet()
    assert columns(harness.status) == ("1/1", 0, "SpecInvalid")
    assert harness.condition("Ready") == ("False", "SpecInvalid"), "the spec's generation does not serve"
    assert harness.condition("Available")[0] == "True"
    assert harness.condition("Stalled") == ("True", "SpecInvalid")
    assert harness.condition("Progressing") == ("False", "SpecInvalid")
    assert "1 groups of the last valid spec keep serving" in message(harness, "Ready")
    harness.edit(lambda one: one.update(engine={}, image="gllm:bad"))
    harness.run_pass()
    harness.world.bad_revisions.add(harness.status.update_revision)
    harness.run_until_quiet()
    harness.now += 3000
    harness.run_until_quiet()
    assert columns(harness.status) == ("1/1", 0, "RolledBack")
    assert harness.condition("Ready") == ("False", "RolledBack")
    assert harness.condition("Stalled") == ("True", "RolledBack")
    harness.edit(lambda one: one.update(image="gllm:3", rollout={"paused": True}))
    harness.run_until_quiet()
    assert harness.condition("Ready") == ("False", "Paused")
    assert harness.condition("Stalled")[0] == harness.condition("Reconciling")[0] == "False"


def test_an_api_that_the_cluster_lacks_is_told_and_stops_nothing() -> None:
    harness = serving()
    harness.edit(lambda one: one.update(monitoring={"podMonitor": True}))
    harness.run_until_quiet()
    assert columns(harness.status) == ("1/1", 1, "ApiMissing")
    assert harness.condition("Ready")[0] == "True"
    assert harness.condition("Integrated") == ("False", "ApiMissing")
    assert "monitoring.coreos.com/v1" in message(harness, "Integrated")
    harness.edit(lambda one: one.update(monitoring={}))
    harness.run_until_quiet()
    assert harness.status.reason == "Ready"
    assert all(one.type != "Integrated" for one in harness.status.conditions)


def kstatus(harness: OperatorHarness) -> str:
    """What kstatus (Flux, `kpt live`) makes of the object, by the rules of its documentation."""
    found = harness.deployment or {}
    if "deletionTimestamp" in found["metadata"]:
        return "Terminating"
    status = found.get("status") or {}
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return "InProgress"
    states = {one["type"]: one["status"] for one in status["conditions"]}
    if states.get("Reconciling") == "True":
        return "InProgress"
    if states.get("Stalled") == "True":
        return "Failed"
    return "Current" if states["Ready"] == "True" else "InProgress"


def test_kstatus_waits_for_the_new_revision_and_fails_when_help_is_needed() -> None:
    harness = OperatorHarness(SPEC)
    assert kstatus(harness) == "InProgress"
    harness.run_pass()
    assert kstatus(harness) == "InProgress"
    harness.run_until_quiet()
    assert kstatus(harness) == "Current"
    harness.edit(lambda one: one.update(image="gllm:2"))
    assert kstatus(harness) == "InProgress"
    harness.run_pass()
    assert kstatus(harness) == "InProgress"
    harness.run_until_quiet()
    assert kstatus(harness) == "Current"
    harness.edit(lambda one: one.update(suspend=True))
    harness.run_until_quiet()
    assert kstatus(harness) == "Current"
    harness.edit(lambda one: one.update(suspend=False, engine={"extraArgs": ["--pp", "4"]}))
    harness.run_until_quiet()
    assert kstatus(harness) == "Failed"
    assert harness.deployment is not None
    harness.api.begin_delete(harness.deployment)
    assert kstatus(harness) == "Terminating"
