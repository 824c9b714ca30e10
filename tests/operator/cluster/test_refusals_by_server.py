"""What a real API server refuses: policies, quotas, conflicts and events of StatefulSets, and how it heals."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from operator_stage import Operators, Play, Stage, ready

from gllm_operator.objects import Object

pytestmark = pytest.mark.timing

_POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"


def message(status: dict[str, Any], type: str) -> str:
    return next((one["message"] for one in status.get("conditions", []) if one["type"] == type), "")


def condition(status: dict[str, Any], type: str) -> tuple[str, str]:
    found = [(one["status"], one["reason"]) for one in status.get("conditions", []) if one["type"] == type]
    return found[0] if found else ("", "")


async def make_policy(on: Stage) -> None:
    """A ValidatingAdmissionPolicy that wants the label `team` on StatefulSets of this namespace."""
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["statefulsets"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": on.namespace},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {
                    "expression": "has(object.metadata.labels) && 'team' in object.metadata.labels",
                    "message": "StatefulSets need the label team",
                }
            ],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": on.namespace}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": on.namespace},
        "spec": {
            "policyName": on.namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selector},
        },
    }
    await on.api._call("POST", _POLICIES, policy)
    await on.api._call("POST", _POLICIES.replace("policies", "policybindings"), binding)
    await asyncio.sleep(3)  # The API server takes policies up with a delay, and does not say when.


async def drop_policy(on: Stage) -> None:
    await on.api._call("DELETE", _POLICIES.replace("policies", "policybindings") + f"/{on.namespace}")
    await on.api._call("DELETE", f"{_POLICIES}/{on.namespace}")


def test_a_policy_rejects_and_its_end_heals(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        await make_policy(on)
        operators.start()
        await on.make()
        status = await on.until(lambda one: one.get("reason") == "Rejected")
        assert "StatefulSets need the label team" in message(status, "SpecValid")
        assert condition(status, "Stalled") == ("True", "Rejected")
        await _until_count(on, 2, "v1", "Service")  # The others are written.
        assert (await on.api.list("apps/v1", "StatefulSet", on.namespace))[0] == []
        await drop_policy(on)
        status = await on.until(ready(1), seconds=60)
        assert [group["instance"] for group in status["groups"]] == [1]

    play(work)


def test_a_rejected_edit_keeps_what_serves(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make(rollout={"maxSurge": 0, "maxUnavailable": 1})
        serving = [group["name"] for group in (await on.until(ready(1)))["groups"]]
        await on.edit(template={"spec": {"restartPolicy": "Sometimes"}})
        status = await on.until(lambda one: one.get("reason") == "Rejected")
        assert "restartPolicy" in message(status, "Ready")
        assert (status["ready"], [group["name"] for group in status["groups"]]) == ("1/1", serving)
        assert condition(status, "Available")[0] == "True"
        await on.edit(template=None)
        await on.until(ready(1))

    play(work)


def test_a_quota_is_told_and_its_end_heals(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        path = f"/api/v1/namespaces/{on.namespace}/resourcequotas"
        hard = {"services": "1"}
        body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
        await on.api._call("POST", path, body)
        # There is no controller that counts: the API server reads only the status.
        counted = {"status": {"hard": hard, "used": {"services": "0"}}}
        await on.api._call("PATCH", f"{path}/small/status", counted, "application/merge-patch+json")
        operators.start()
        await on.make()
        status = await on.until(lambda one: condition(one, "Degraded") == ("True", "CannotWrite"))
        assert "exceeded quota: small" in message(status, "Degraded")
        await _until_count(on, 2, "apps/v1", "StatefulSet")  # One refused object does not stop the others.
        await on.api._call("DELETE", f"{path}/small")
        status = await on.until(lambda one: ready(1)(one) and one["reason"] == "Ready", seconds=60)
        assert status["groups"][0]["instance"] == 1

    play(work)


def test_a_service_that_another_made_contradictory_is_restored(operators: Operators, play: Play) -> None:
    """`kubectl patch` of the port, under its name: then a merge of both has two ports of one name."""

    async def work(on: Stage) -> None:
        operators.start()
        await on.make()
        await on.until(ready(1))
        ports = [{"name": "http", "port": 81, "protocol": "TCP"}]
        await on.api._call(
            "PATCH",
            f"/api/v1/namespaces/{on.namespace}/services/smol?fieldManager=kubectl-patch",
            {"spec": {"ports": ports, "selector": {"gllm.dev/role": "none"}}},
            "application/merge-patch+json",
        )
        deadline = time.monotonic() + 20
        while True:
            service = await on.api.get("v1", "Service", on.namespace, "smol")
            found = (
                [port["port"] for port in service["spec"]["ports"]],
                service["spec"]["selector"].get("gllm.dev/role"),
            )
            if found == ([80], "master"):
                break
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.2)
        assert (await on.until(ready(1)))["reason"] == "Ready"

    play(work)


def test_what_stops_a_stateful_set_is_told(operators: Operators, play: Play) -> None:
    """Only its events say so; this test posts the event, as there is no StatefulSet controller."""

    async def work(on: Stage) -> None:
        operators.start()
        await on.make()
        await on.until(ready(1))
        on.controllers.no_pods.add("gllm:2")
        await on.edit(image="gllm:2")
        status = await on.until(lambda one: len(one.get("groups", [])) == 2)
        assert (status["ready"], status["updatedReplicas"], status["reason"]) == ("1/1", 0, "RollingOut")
        new = await _set_with_image(on, "gllm:2")
        text = 'create Pod failed: pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath'
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "refused", "namespace": on.namespace},
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "namespace": on.namespace,
                "name": new["metadata"]["name"],
                "uid": new["metadata"]["uid"],
            },
            "type": "Warning",
            "reason": "FailedCreate",
            "message": text,
            "lastTimestamp": now,
        }
        await on.api.create(event)
        status = await on.until(lambda one: text in message(one, "Progressing"), seconds=5)
        assert (status["ready"], status["reason"]) == ("1/1", "Rejected")
        assert condition(status, "SpecValid") == ("False", "Rejected")
        on.controllers.no_pods.clear()
        status = await on.until(ready(1))
        assert status["reason"] == "Ready"

    play(work)


async def _until_count(on: Stage, count: int, *kind: str) -> None:
    for _ in range(100):
        found, _version = await on.api.list(kind[0], kind[1], on.namespace)
        if len(found) == count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"there are {len(found)} objects of {kind[1]}")


async def _set_with_image(on: Stage, image: str) -> Object:
    """Wait for it: the status names a group before its StatefulSets are written."""
    for _ in range(100):
        for one in (await on.api.list("apps/v1", "StatefulSet", on.namespace))[0]:
            if one["spec"]["template"]["spec"]["containers"][0]["image"] == image:
                return one
        await asyncio.sleep(0.1)
    raise AssertionError(f"no StatefulSet has {image}")
