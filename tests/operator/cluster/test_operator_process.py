"""The operator as a process, against a real API server: server-side apply, watches, the lease, crashes."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter

import pytest
from operator_stage import PATH, Operators, Play, Stage, ready

from fixtures.metrics import metric_sum
from gllm_operator.kube.api import ApiError

pytestmark = pytest.mark.timing


def test_from_apply_to_delete(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make()
        status = await on.until(ready(1))
        assert status["endpoint"]["url"] == f"http://smol.{on.namespace}.svc/v1"
        assert status["reason"] == "Ready"
        assert json.loads(operators.get("/healthz"))["status"] == "ok"
        await operators.until_metric('gllm_operator_groups{phase="Ready"}', 1)
        # An idle deployment costs nothing.
        await asyncio.sleep(1)
        before, writes = await on.versions(), _writes(operators)
        await asyncio.sleep(3)
        assert await on.versions() == before
        assert _writes(operators) == writes
        # Scaling by the subresource scale, as autoscalers do.
        await on.api._call(
            "PATCH",
            PATH.format(on.namespace) + "/smol/scale",
            {"spec": {"replicas": 3}},
            "application/merge-patch+json",
        )
        await on.until(ready(3))
        await on.edit(replicas=1)
        await on.until(ready(1))
        # A new revision with another parallelism.
        await on.edit(image="gllm:2", parallelism={"pipeline": 3})
        status = await on.until(lambda one: ready(1)(one) and one["shape"]["summary"] == "PP3xTP1")
        assert status["groups"][0]["readyRanks"] == "3/3"
        # Edited and deleted objects are restored.
        await on.api.patch("v1", "Service", on.namespace, "smol", {"spec": {"selector": {"gllm.dev/role": "none"}}})
        sets, _ = await on.api.list("apps/v1", "StatefulSet", on.namespace)
        slaves = next(one for one in sets if one["metadata"]["name"].endswith("-s"))
        await on.api.delete(
            "apps/v1", "StatefulSet", on.namespace, slaves["metadata"]["name"], slaves["metadata"]["uid"]
        )
        await asyncio.sleep(2)
        await on.until(ready(1))
        service = await on.api.get("v1", "Service", on.namespace, "smol")
        assert service["spec"]["selector"]["gllm.dev/role"] == "master"
        # Deletion drains and completes.
        await on.api._call("DELETE", PATH.format(on.namespace) + "/smol")
        await _until_gone(on)
        assert (await on.api.list("apps/v1", "StatefulSet", on.namespace))[0] == []
        events, _ = await on.api.list("v1", "Event", on.namespace)
        told = Counter((one["reason"], one["message"]) for one in events)
        again = {reason for (reason, _), times in told.items() if times > 1}
        # The group became ready a second time with its new slave. No other event is repeated.
        assert again <= {"GroupReady", "AllGroupsReady", "EnoughGroups", "TooFewGroups"}, told
        assert max(told.values()) <= 2, told
        assert sum(times for (reason, _), times in told.items() if reason == "GroupRecovering") == 1, told

    play(work)


def test_a_killed_operator_is_replaced_in_a_rollout(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start(**{"lease-name": ""})
        await on.make(replicas=2)
        await on.until(ready(2))
        for number, pause in enumerate((0.05, 0.2, 0.5)):
            await on.edit(image=f"gllm:again-{number}")
            await asyncio.sleep(pause)
            operators.running[-1].send_signal(signal.SIGKILL)
            operators.running[-1].wait()
            operators.start(**{"lease-name": ""})
            await on.until(ready(2))

    play(work)


def test_one_of_two_operators_leads(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make()
        await on.until(ready(1))
        operators.start()
        await operators.until_metric("gllm_operator_leads ", 0, seconds=30)
        await asyncio.sleep(3)
        leads = [operators.metric("gllm_operator_leads ", which) for which in (0, 1)]
        assert leads == [1, 0]
        operators.running[0].send_signal(signal.SIGKILL)
        await on.edit(replicas=2)
        await on.until(ready(2))
        assert operators.metric("gllm_operator_leads ", 1) == 1
        # A leader that gets SIGTERM releases the lease and ends with status 0.
        operators.start()
        operators.running[1].send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(operators.running[1].wait, 15) == 0
        await on.edit(replicas=1)
        await on.until(ready(1))

    play(work)


def test_a_second_operator_stands_back_until_it_is_asked(operators: Operators, play: Play) -> None:
    """Two releases over one namespace, each with its own Lease and another default image."""

    async def work(on: Stage) -> None:
        operators.start(**{"lease-name": "one"})
        await on.make()
        await on.until(ready(1))
        operators.start(**{"lease-name": "two", "default-image": "other:1"})

        async def told() -> list[str]:
            events, _ = await on.api.list("v1", "Event", on.namespace)
            return [one["message"] for one in events if one["reason"] == "StandsBack"]

        async with asyncio.timeout(60):
            while not await told():
                await asyncio.sleep(0.1)
        before = await on.versions()
        await asyncio.sleep(2)
        assert await on.versions() == before
        assert len(await told()) == 1
        mark = f"{on.namespace}/two"
        body = {"metadata": {"annotations": {"gllm.dev/operator": mark}}}
        await on.api.patch("gllm.dev/v1alpha1", "LLMDeployment", on.namespace, "smol", body)
        await on.until(lambda status: status.get("operator") == mark and ready(1)(status))
        await on.edit(image="gllm:2")
        await on.until(ready(1))

    play(work)


def test_a_failed_revision_is_rolled_back(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make(rollout={"progressDeadlineSeconds": 10})
        await on.until(ready(1))
        on.controllers.bad_images.add("gllm:bad")
        await on.edit(image="gllm:bad")
        status = await on.until(lambda one: one.get("failedRevision") and ready(1, 0)(one))
        assert status["reason"] == "RolledBack"
        await on.edit(image="gllm:3")
        status = await on.until(ready(1))
        assert not status.get("failedRevision")

    play(work)


def test_refused_pods_are_reported(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make(template={"spec": {"restartPolicy": "Sometimes"}})
        await on.until(lambda one: one.get("reason") == "Rejected")
        assert (await on.api.list("apps/v1", "StatefulSet", on.namespace))[0] == []
        await on.edit(template=None)
        await on.until(ready(1))

    play(work)


def _writes(operators: Operators) -> float:
    """The number of writes, without those of the lease."""
    return metric_sum(operators.get("/metrics"), "gllm_operator_writes_total", without='kind="Lease"')


async def _until_gone(on: Stage) -> None:
    for _ in range(300):
        try:
            await on.get()
        except ApiError as error:
            if error.status != 404:
                raise
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the deployment still exists")


def test_gllm_status_follows_a_rollout(operators: Operators, play: Play) -> None:
    async def work(on: Stage) -> None:
        operators.start()
        await on.make()
        await on.until(ready(1))
        watching = operators.gllm("status", "llm/smol", "-n", on.namespace, "--watch")
        on.controllers.bad_images.add("gllm:bad")
        await on.edit(image="gllm:bad")
        await on.until(lambda one: one.get("reason") == "RollingOut")
        once = operators.gllm("status", "smol", "-n", on.namespace)
        text, _ = await asyncio.to_thread(once.communicate, timeout=30)
        assert once.returncode == 0
        assert text.startswith(f"llm/smol in {on.namespace}: RollingOut, ready 1/1, up to date 0, PP2xTP1")
        await on.edit(image="gllm:good")
        await on.until(ready(1))
        await on.api._call("DELETE", PATH.format(on.namespace) + "/smol")
        text, _ = await asyncio.to_thread(watching.communicate, timeout=30)
        assert watching.returncode == 0, text
        assert "Ready False RollingOut: revision" in text
        assert "Ready False Deleting" in text
        assert text.endswith("llm/smol is gone\n")
        missing = operators.gllm("status", "nothing", "-n", on.namespace)
        _, error = await asyncio.to_thread(missing.communicate, timeout=30)
        assert (missing.returncode, "not found" in error) == (1, True)

    play(work)
