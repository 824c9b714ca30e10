"""Operators as processes, and a namespace in which StatefulSets get pods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fixtures.api_server import write_kubeconfig
from fixtures.kube_controllers import Controllers
from fixtures.metrics import metric_sum
from fixtures.operator_harness import deployment
from fixtures.ports import free_port
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import Login

PATH = "/apis/gllm.dev/v1alpha1/namespaces/{}/llmdeployments"


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

    def gllm(self, *arguments: str) -> subprocess.Popen[str]:
        """Run the `gllm` command on the test's cluster."""
        command = [sys.executable, "-m", "gllm.apps.cli.main", *arguments]
        env = os.environ | {"KUBECONFIG": str(self._kubeconfig)}
        env.pop("KUBERNETES_SERVICE_HOST", None)
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

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
        await self.api._call("POST", PATH.format(self.namespace), body)

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


def ready(count: int, updated: int | None = None) -> Callable[[dict[str, Any]], bool]:
    return lambda status: (
        status.get("ready") == f"{count}/{count}"
        and len(status.get("groups", [])) == count
        and status.get("rollout", {}).get("complete", False)
        and status.get("updatedReplicas") == (count if updated is None else updated)
    )
