"""Writes that the API server refuses: told in the status, tried again, and no reason to leave out other writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.kube.api import ApiError
from gllm_operator.objects import Object

Admit = Callable[[str, Object], None]


def refuse(kind: str, name: str, status: int, text: str, verbs: tuple[str, ...] = ("apply",)) -> Admit:
    def admit(verb: str, manifest: Object) -> None:
        if manifest["kind"] == kind and name in manifest["metadata"]["name"] and verb in verbs:
            raise ApiError(status, "Forbidden" if status == 403 else "Invalid", text)

    return admit


def no_policy(verb: str, manifest: Object) -> None:
    pass


def settle(harness: OperatorHarness, seconds: float = 0) -> None:
    """Run passes for a while; refused writes are tried again and again, so it never gets quiet."""
    harness.world.eager = True
    until = harness.now + seconds
    for _ in range(400):
        wait = harness.run_pass()
        happened = harness.world.step()
        harness.now += 0.1 if happened else min(max(1.0 if wait is None else wait, 0.1), 5)
        if harness.now >= until and not happened and (seconds or wait is None or wait > 0.5):
            return
    raise AssertionError("does not settle")


def message(harness: OperatorHarness, type: str) -> str:
    return next(one.message for one in harness.status.conditions if one.type == type)


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("Service", "smol", 403),
        ("Service", "smol-pods", 403),
        ("NetworkPolicy", "smol", 403),
        ("ServiceAccount", "smol", 400),
        ("PodDisruptionBudget", "smol", 422),
        ("ControllerRevision", "smol", 403),
        ("StatefulSet", "-s", 403),
        ("StatefulSet", "-m", 403),
        ("Service", "smol", 500),
    ],
)
def test_a_refused_object_is_told_the_others_are_written_and_it_heals(kind: str, name: str, status: int) -> None:
    harness = OperatorHarness(SPEC)
    text = f"{kind} is forbidden: exceeded quota: small"
    harness.api.admit = refuse(kind, name, status, text)
    settle(harness)
    assert harness.status.reason == "CannotWrite"
    assert harness.condition("Degraded") == ("True", "CannotWrite")
    assert harness.condition("Ready") == ("False", "CannotWrite")
    assert text in message(harness, "Degraded")
    kinds = {one["kind"] for one in harness.api.objects.values()}
    others = {"Service", "NetworkPolicy", "ServiceAccount", "PodDisruptionBudget", "ControllerRevision", "StatefulSet"}
    assert others - {kind} <= kinds
    settle(harness, 200)
    attempts = [harness.status.groups[0].name, harness.status.places[0].instance]
    assert attempts[1] == 1, "the number of the group does not grow"
    events = [one["reason"] for one in harness.api.of_kind("Event")]
    assert events.count("CannotWrite") <= 2
    assert events.count("GroupCreated") == 1
    harness.api.admit = no_policy
    settle(harness, 40)
    assert harness.status.reason == "Ready"
    assert [group.name for group in harness.status.groups] == [attempts[0]]


def test_a_refused_secret_is_told_and_made_later() -> None:
    harness = OperatorHarness(SPEC)
    harness.api.admit = refuse("Secret", "keys", 403, "exceeded quota: secrets", ("create",))
    settle(harness)
    assert "exceeded quota: secrets" in message(harness, "Degraded")
    assert harness.sets() != []
    harness.api.admit = no_policy
    settle(harness, 40)
    assert harness.api.of_kind("Secret")
    assert harness.status.reason == "Ready"


def test_a_refused_deletion_does_not_stop_other_writes() -> None:
    harness = OperatorHarness(SPEC)
    harness.run_until_quiet()
    harness.api.admit = refuse("StatefulSet", "", 403, "deletions are frozen", ("delete",))
    harness.edit(lambda one: one.update(image="gllm:2"))
    settle(harness, 20)
    assert "deletions are frozen" in message(harness, "Degraded")
    assert (harness.status.ready, harness.status.updated_replicas) == ("1/1", 1), "the new group serves"
    harness.api.admit = no_policy
    settle(harness, 40)
    assert harness.status.reason == "Ready"


def test_an_unreachable_server_is_no_refusal() -> None:
    harness = OperatorHarness(SPEC)
    harness.run_until_quiet()
    service = next(one for one in harness.api.of_kind("Service") if one["metadata"]["name"] == "smol")
    harness.api.drop(service)
    for status in (0, 401, 429, 503):
        harness.api.admit = refuse("Service", "smol", status, "try later")
        with pytest.raises(ApiError):
            harness.run_pass()
    harness.api.admit = no_policy
    harness.run_until_quiet()
    assert harness.status.reason == "Ready"


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("set_name", ["-m", "-s"])
def test_a_rejected_revision_drains_nothing_and_heals(status: int, set_name: str) -> None:
    """A policy wants a label on StatefulSets; later it is removed."""
    harness = OperatorHarness(SPEC | {"rollout": {"maxSurge": 0, "maxUnavailable": 1}})
    harness.run_until_quiet()
    (serving,) = [group.name for group in harness.status.groups]
    harness.edit(lambda one: one.update(image="gllm:2"))
    harness.api.admit = refuse(
        "StatefulSet", set_name, status, "StatefulSets need the label team", ("apply", "dry run")
    )
    settle(harness, 300)
    assert (harness.status.ready, harness.status.reason) == ("1/1", "Rejected")
    assert harness.condition("SpecValid") == ("False", "Rejected")
    assert "need the label team" in message(harness, "SpecValid")
    assert "need the label team" in message(harness, "Progressing")
    assert [group.name for group in harness.status.groups] == [serving], "nothing drained for the refused revision"
    events = [one["reason"] for one in harness.api.of_kind("Event")]
    assert events.count("Rejected") <= 2, events
    assert max(place.instance for place in harness.status.places) == 1
    harness.api.admit = no_policy
    settle(harness, 45)
    assert harness.status.reason == "Ready"
    assert serving not in [group.name for group in harness.status.groups]


def test_a_first_revision_that_is_rejected_heals() -> None:
    harness = OperatorHarness(SPEC)
    harness.api.admit = refuse("StatefulSet", "", 422, "StatefulSets need the label team", ("apply", "dry run"))
    settle(harness, 50)
    assert (harness.status.ready, harness.status.reason) == ("0/1", "Rejected")
    harness.api.admit = no_policy
    settle(harness, 45)
    assert harness.status.reason == "Ready"


def test_webhooks_without_dry_run_stop_nothing() -> None:
    harness = OperatorHarness(SPEC)
    harness.api.admit = refuse("StatefulSet", "", 400, 'admission webhook "x" does not support dry run', ("dry run",))
    harness.run_until_quiet()
    assert harness.status.reason == "Ready"


def test_a_deleted_object_is_written_at_once_although_its_last_write_was_refused() -> None:
    harness = OperatorHarness(SPEC)
    harness.run_until_quiet()
    service = next(one for one in harness.api.of_kind("Service") if one["metadata"]["name"] == "smol")

    def admit(verb: str, manifest: Object) -> None:
        exists = ("v1", "Service", "default", "smol") in harness.api.objects
        if verb == "apply" and (manifest["kind"], manifest["metadata"]["name"]) == ("Service", "smol") and exists:
            raise ApiError(422, "Invalid", "spec.ports[1].name: Duplicate value")

    harness.api.admit = admit
    harness.api.edit(service, lambda one: one["spec"].update(selector={}), manager="kubectl-patch")
    settle(harness, 100)
    assert harness.status.reason == "CannotWrite"
    harness.api.drop(service)
    harness.run_pass()
    assert any(one["metadata"]["name"] == "smol" for one in harness.api.of_kind("Service"))
    harness.run_until_quiet()
    assert harness.status.reason == "Ready"


def test_what_an_abandoned_revision_was_refused_is_forgotten() -> None:
    harness = OperatorHarness(SPEC)
    harness.run_until_quiet()
    harness.edit(lambda one: one.update(image="gllm:2"))
    harness.run_pass()
    revision = harness.status.update_revision
    harness.edit(lambda one: one.update(image="gllm:3"))
    harness.api.admit = refuse("StatefulSet", "", 403, "exceeded quota")
    settle(harness)
    assert harness.status.reason == "CannotWrite"
    harness.edit(lambda one: one.update(image="gllm:1"))
    harness.api.admit = no_policy
    harness.run_until_quiet()
    assert harness.status.reason == "Ready"
    assert harness.status.update_revision != revision


def test_a_server_that_fails_in_the_middle_does_not_count_groups_up() -> None:
    harness = OperatorHarness(SPEC)
    harness.api.admit = refuse("StatefulSet", "", 503, "no etcd leader", ("apply", "dry run"))
    for _ in range(10):
        try:
            harness.run_pass()
        except ApiError:
            harness.now += 1
    harness.api.admit = no_policy
    harness.run_until_quiet()
    assert [group.instance for group in harness.status.groups] == [1]


# --- pods that their StatefulSet may not create -------------------------------------------------------------


def no_pods(harness: OperatorHarness, text: str, role: str = "master") -> None:
    """StatefulSets of this role get no pods, and an event says why."""
    world = harness.world
    actions = world._set_actions
    world._set_actions = lambda one: (  # type: ignore[method-assign]
        []
        if one["metadata"]["labels"]["gllm.dev/role"] == role and "deletionTimestamp" not in one["metadata"]
        else actions(one)
    )
    harness.failed_creates = lambda one: text if one["metadata"]["labels"]["gllm.dev/role"] == role else ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes', "Rejected"),
        ("maximum memory usage per Container is 64Mi, but limit is 1Gi", "Rejected"),
        ("exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1", "CannotWrite"),
        ('error looking up service account default/no: serviceaccount "no" not found', "CannotWrite"),
    ],
)
def test_pods_that_cannot_be_created_are_told(text: str, reason: str) -> None:
    harness = OperatorHarness(SPEC)
    no_pods(harness, text)
    settle(harness, 5)
    assert (harness.status.ready, harness.status.reason) == ("0/1", reason)
    assert harness.condition("Degraded") == ("True", reason)
    assert (harness.condition("SpecValid") == ("False", "Rejected")) == (reason == "Rejected")
    for type in ("Ready", "Progressing", "Degraded"):
        assert text in message(harness, type), type
    (group,) = harness.status.groups
    assert group.last_failure is not None
    assert (group.phase, group.last_failure.reason, group.last_failure.pod) == (
        "Pending",
        "FailedCreate",
        f"{group.name}-m-0",
    )


def test_a_missing_slave_is_the_cause_and_not_the_exit_of_its_master() -> None:
    harness = OperatorHarness(SPEC)
    no_pods(harness, "exceeded quota: pods=1", "slave")
    settle(harness, 5)
    (master,) = harness.api.of_kind("Pod")
    harness.world.crash(master, 1, "no slave has joined")
    settle(harness, 5)
    assert harness.status.groups[0].last_failure is not None
    assert harness.status.groups[0].last_failure.pod.endswith("-s-1")
    assert "exceeded quota: pods=1" in message(harness, "Progressing")
