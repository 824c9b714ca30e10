"""Measure one operator with many LLMDeployments: `python benchmarks/operator_scale.py [--count 200]`.

It uses the cluster of KUBECONFIG (without nodes the pods of StatefulSets stay Pending), or starts an API server from
the binaries in KUBEBUILDER_ASSETS. The operator is one process, as in its pod. It prints

    create   from the first `kubectl apply` until every deployment has its objects and a status
    quiet    until the control plane has made all pods and no object changes any more
    idle     writes to the API server and CPU while nothing changes
    edit     from an edit of one deployment until its objects are new, beside all the other deployments
    restart  from the start of a new operator until an edit that it missed is carried out
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fixtures.api_server import api_server, binaries, install_crd, write_kubeconfig  # noqa: E402
from fixtures.metrics import metric_sum  # noqa: E402
from fixtures.ports import free_port  # noqa: E402
from gllm_operator.kube.client import ApiClient  # noqa: E402
from gllm_operator.kube.login import Login, login  # noqa: E402

NAMESPACE = "operator-scale"
API, KIND = "gllm.dev/v1alpha1", "LLMDeployment"
EDITS = 10
IDLE_SECONDS = 30.0
QUIET_SECONDS = 5.0


def manifest(number: int) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": KIND,
        "metadata": {"name": f"llm-{number:03}", "namespace": NAMESPACE},
        "spec": {
            "model": {"source": "file:///models/x"},
            "parallelism": {"pipeline": 2},
            "accelerator": {"type": "cpu"},
            "image": "gllm:1",
        },
    }


class Operator:
    """The operator's process, with its metrics, CPU time and memory."""

    def __init__(self, kubeconfig: str) -> None:
        self.port = free_port()
        command = [
            sys.executable,
            "-m",
            "gllm_operator",
            f"--namespaces={NAMESPACE}",
            f"--http-port={self.port}",
            "--http-host=127.0.0.1",
            "--lease-name=",
        ]
        env = os.environ | {"KUBECONFIG": kubeconfig}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return metric_sum(answer.read().decode(), name)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not await holds():
        if time.monotonic() > began + seconds:
            raise SystemExit(f"{what}: not done within {seconds:.0f} s")
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def measure(access: Login, kubeconfig: str, count: int) -> None:
    async with ApiClient(access) as api, prepared(api):
        operator = Operator(kubeconfig)
        try:
            await create(api, operator, count)
            await idle(operator)
            await edits(api, count)
            operator.stop()
            last = (
                count - 1
            )  # Not one of those edited before: their pods never become ready, so a second change would wait.
            await edit(api, last, 64)
            operator = Operator(kubeconfig)
            seconds = await until(lambda: carried_out(api, last, 64), 120, "the edit after a restart")
            print(f"restart  {seconds:.2f} s until a missed edit is carried out (imports included)")
        finally:
            operator.stop()


@contextlib.asynccontextmanager
async def prepared(api: ApiClient) -> AsyncIterator[None]:
    """Create the CRD and a namespace; delete the namespace afterwards."""
    await install_crd(api)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    await api._call("POST", "/api/v1/namespaces", body)
    try:
        yield
    finally:
        for one in (await api.list(API, KIND, NAMESPACE))[0]:
            name = one["metadata"]["name"]
            await api.patch(API, KIND, NAMESPACE, name, {"metadata": {"finalizers": []}})
            await api.delete(API, KIND, NAMESPACE, name, one["metadata"]["uid"])
        await api._call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


async def create(api: ApiClient, operator: Operator, count: int) -> None:
    began = time.monotonic()
    for number in range(count):
        await api._call("POST", f"/apis/{API}/namespaces/{NAMESPACE}/llmdeployments", manifest(number))
    applied = time.monotonic() - began

    async def done() -> bool:
        sets, _ = await api.list("apps/v1", "StatefulSet", NAMESPACE)
        found, _ = await api.list(API, KIND, NAMESPACE)
        return len(sets) == 2 * count and all((one.get("status") or {}).get("groups") for one in found)

    await until(done, 600, "objects of every deployment")
    total = time.monotonic() - began
    passes = operator.metric("gllm_operator_reconciles_total")
    print(
        f"create   {count} deployments in {total:.1f} s (applying them took {applied:.1f} s); {passes:.0f} passes, "
        f"mean {operator.metric('gllm_operator_reconcile_seconds_sum') / max(1, passes) * 1e3:.0f} ms, "
        f"{operator.metric('gllm_operator_writes_total'):.0f} writes, CPU {operator.cpu_seconds():.1f} s, "
        f"{operator.memory_mb():.0f} MB"
    )


async def idle(operator: Operator) -> None:
    seen, began = -1.0, time.monotonic()
    while seen != (seen := operator.metric("gllm_operator_reconciles_total")):
        await asyncio.sleep(QUIET_SECONDS)  # The control plane still creates pods, and the operator observes each.
    print(f"quiet    after {time.monotonic() - began - QUIET_SECONDS:.0f} s more")
    writes, passes, cpu = (
        operator.metric("gllm_operator_writes_total"),
        operator.metric("gllm_operator_reconciles_total"),
        operator.cpu_seconds(),
    )
    await asyncio.sleep(IDLE_SECONDS)
    print(
        f"idle     {IDLE_SECONDS:.0f} s: {operator.metric('gllm_operator_writes_total') - writes:.0f} writes, "
        f"{operator.metric('gllm_operator_reconciles_total') - passes:.0f} passes, "
        f"{(operator.cpu_seconds() - cpu) / IDLE_SECONDS * 100:.1f} % of a core"
    )


async def edits(api: ApiClient, count: int) -> None:
    times = []
    for number in range(EDITS):
        await edit(api, number * count // EDITS, 32)
        times.append(await until(lambda n=number: carried_out(api, n * count // EDITS, 32), 60, "an edit"))
    print(
        f"edit     {EDITS} edits, one after the other: median {statistics.median(times):.2f} s, "
        f"slowest {max(times):.2f} s"
    )


async def edit(api: ApiClient, number: int, most: int) -> None:
    await api.patch(API, KIND, NAMESPACE, f"llm-{number:03}", {"spec": {"engine": {"maxNumSeqs": most}}})


async def carried_out(api: ApiClient, number: int, most: int) -> bool:
    """Return whether a StatefulSet of the deployment has the new argument."""
    sets, _ = await api.list("apps/v1", "StatefulSet", NAMESPACE, f"gllm.dev/deployment=llm-{number:03}")
    containers = [one["spec"]["template"]["spec"]["containers"][0] for one in sets]
    return any(("--max-num-seqs", str(most)) in itertools.pairwise(one["args"]) for one in containers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    if count <= EDITS:
        parser.error(f"--count must be more than {EDITS}, the number of edited deployments")
    if config := os.environ.get("KUBECONFIG"):
        asyncio.run(measure(login(), config, count))
        return
    folder = binaries()
    if folder is None:
        sys.exit(
            "no kube-apiserver found: set KUBECONFIG, or KUBEBUILDER_ASSETS to the folder of etcd and kube-apiserver"
        )
    with tempfile.TemporaryDirectory() as data, api_server(folder, Path(data)) as access:
        config = str(Path(data) / "kubeconfig")
        write_kubeconfig(access, Path(config))
        asyncio.run(measure(access, config, count))


if __name__ == "__main__":
    main()
