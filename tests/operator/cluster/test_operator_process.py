"""The operator as a process, against a real API server: server-side apply, watches, the lease, crashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.api_server import write_kubeconfig
from fixtures.kube_controllers import Controllers
from fixtures.metrics import metric_sum
from fixtures.operator_harness import deployment
from fixtures.ports import free_port
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import Login

pytestmark = pytest.mark.timing

_PATH = "/apis/gllm.dev/v1alpha1/namespaces/{}/llmdeployments"


class Operators:
    """Starts operators that watch one namespace."""

    def __init__(self, login: Login, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._namespace = namespace
        self._kubeconfig = folder / "kubeconfig"
        write_kubeconfig(login, self._kubeconfig)
        self.running: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []

    def start(self, **flags: str) -> subprocess.Popen[bytes]:
        port = free_port()
        own = {
            "namespaces": self._namespace,
            "lease-namespace": self._namespace,
            "http-port": str(port),
            "http-host": "127.0.0.1",
            "lease-seconds": "3",
            "identity": f"operator-{len(self.running)}",
        }
        flags = own | flags
        command = [sys.executable, "-m", "gllm_operator", *(f"--{key}={value}" for key, value in flags.items())]
        log = (self._folder / f"operator-{len(self.running)}.log").open("wb")
        env = os.environ | {"KUBECONFIG": str(self._kubeconfig)}
        env.pop("KUBERNETES_SERVICE_HOST", None)
        self.running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        self.ports.append(port)
        return self.running[-1]

    def get(self, path: str, which: int = -1) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[which]}{path}", timeout=2) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, which: int = -1) -> float:
        return metric_sum(self.get("/metrics", which), name)

    async def until_metric(self, name: str, value: float, which: int = -1, seconds: float = 5) -> None:
        """Wait for a gauge, which may change shortly after the write that a test has seen."""
        deadline, found = time.monotonic() + seconds, -1.0
        while found != value:
            assert time.monotonic() < deadline, f"{name} is {found}"
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):  # The process may still be starting.
                found = self.metric(name, which)

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def operators(login: Login, tmp_path: Path, namespace: str) -> Iterator[Operators]:
    found = Operators(login, tmp_path, namespace)
    yield found
    found.end()


class Stage:
    """A namespace in which StatefulSets get pods."""

    def __init__(self, api: ApiClient, namespace: str, controllers: Controllers) -> None:
        self.api = api
        self.namespace = namespace
        self.controllers = controllers

    async def make(self, **spec: Any) -> None:
        body = deployment(
            spec={
                "image": "gllm:1",
                "model": {"source": "file:///models/x"},
                "parallelism": {"pipeline": 2},
                "accelerator": {"type": "cpu"},
            }
            | spec
        )
        body["metadata"] = {"name": "smol", "namespace": self.namespace}
        await self.api._call("POST", _PATH.format(self.namespace), body)

    async def get(self) -> dict[str, Any]:
        return await self.api.get("gllm.dev/v1alpha1", "LLMDeployment", self.namespace, "smol")

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get()).get("status") or {}
        return found

    async def edit(self, **spec: Any) -> None:
        await self.api.patch("gllm.dev/v1alpha1", "LLMDeployment", self.namespace, "smol", {"spec": spec})

    async def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 40) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            status = await self.status()
            if holds(status):
                return status
            if time.monotonic() > deadline:
                raise AssertionError(json.dumps(status, indent=1))
            await asyncio.sleep(0.1)

    async def versions(self) -> dict[tuple[str, str], str]:
        found = {}
        for kind in (
            ("apps/v1", "StatefulSet"),
            ("v1", "Service"),
            ("policy/v1", "PodDisruptionBudget"),
            ("apps/v1", "ControllerRevision"),
            ("gllm.dev/v1alpha1", "LLMDeployment"),
        ):
            for one in (await self.api.list(*kind, self.namespace))[0]:
                found[kind[1], one["metadata"]["name"]] = one["metadata"]["resourceVersion"]
        return found


@contextlib.asynccontextmanager
async def stage(login: Login, namespace: str) -> AsyncIterator[Stage]:
    async with ApiClient(login) as api:
        controllers = Controllers(api, namespace)
        task = asyncio.create_task(controllers.run())
        try:
            yield Stage(api, namespace, controllers)
        finally:
            task.cancel()


Play = Callable[[Callable[[Stage], Awaitable[None]]], None]


@pytest.fixture
def play(login: Login, namespace: str) -> Play:
    def run(work: Callable[[Stage], Awaitable[None]]) -> None:
        async def inside() -> None:
            async with stage(login, namespace) as found:
                await work(found)

        asyncio.run(inside())

    return run


def ready(count: int, updated: int | None = None) -> Callable[[dict[str, Any]], bool]:
    return lambda status: (
        status.get("ready") == f"{count}/{count}"
        and len(status.get("groups", [])) == count
        and status.get("rollout", {}).get("complete", False)
        and status.get("updatedReplicas") == (count if updated is None else updated)
    )


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
            _PATH.format(on.namespace) + "/smol/scale",
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
        await on.api._call("DELETE", _PATH.format(on.namespace) + "/smol")
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
