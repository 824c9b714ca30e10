"""Compare the operator's own client and watches with libraries: `python benchmarks/operator_libraries.py`.

The control plane is a separate etcd and kube-apiserver, from KUBEBUILDER_ASSETS or the PATH, behind a TCP proxy that
can cut all connections. Each candidate is a process that lists and watches `--count` pods as the operator renders them.

    start    seconds, CPU seconds and peak memory from the start of the process until it has all pods
    change   seconds from a change of a pod until the process has seen it
    ghosts   deleted pods that the process still has, after they were deleted while it was disconnected and the API
             server restarted, so that the watch has expired (410) and starts again with a list

`own` is kube/client.py, informer.py and cache.py; `kopf` is an index and an event handler. With `--clients` the pods
are only listed: by `own`, and by lightkube, kr8s and kubernetes if these are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

NAMESPACE, DELETED, CHANGES = "default", 20, 20
KIND = ("v1", "Pod")


# --- candidates, each in a process of its own: they print a line of JSON at each change ------------------------------


def say(**facts: Any) -> None:
    print(json.dumps(facts | {"time": time.time()}), flush=True)


async def watch_own() -> None:
    from gllm_operator.kube.cache import Cache
    from gllm_operator.kube.client import ApiClient
    from gllm_operator.kube.informer import Informer
    from gllm_operator.kube.login import login

    cache = Cache(lambda key: say(held=len(list(cache.of(key))), marks=marks(cache.of(key))))
    async with ApiClient(login()) as api:
        await Informer(api, cache, *KIND, namespaces=(NAMESPACE,)).run()


async def watch_kopf() -> None:
    import kopf

    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def log_in(**more: Any) -> Any:
        return kopf.login_with_kubeconfig(**more)

    @kopf.index("", "v1", "pods", registry=registry, id="pods")
    def pods(body: Any, **_: Any) -> Any:
        return {"llm": dict(body)}

    @kopf.on.event("", "v1", "pods", registry=registry)
    def on_event(pods: Any, **_: Any) -> None:
        found = list(pods.get("llm", []))
        say(held=len(found), marks=marks(found))

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    await kopf.operator(registry=registry, settings=settings, standalone=True, namespaces=(NAMESPACE,))


def marks(objects: Any) -> list[str]:
    found = [(one["metadata"].get("annotations") or {}).get("mark") for one in objects]
    return [mark for mark in found if mark]


async def list_own() -> None:
    from gllm_operator.kube.client import ApiClient
    from gllm_operator.kube.login import login

    async with ApiClient(login()) as api:
        items, _ = await api.list(*KIND, NAMESPACE)
        say(held=len(items))


async def list_lightkube() -> None:
    from lightkube import AsyncClient
    from lightkube.resources.core_v1 import Pod

    found = [one async for one in AsyncClient().list(Pod, namespace=NAMESPACE)]
    say(held=len(found))


async def list_kr8s() -> None:
    from kr8s.asyncio.objects import Pod

    found = [one async for one in Pod.list(namespace=NAMESPACE)]
    say(held=len(found))


async def list_kubernetes() -> None:
    from kubernetes import client, config

    config.load_kube_config()
    found = client.CoreV1Api().list_namespaced_pod(NAMESPACE).items
    say(held=len(found))


CANDIDATES: dict[str, Callable[[], Any]] = {
    name: found for name, found in globals().items() if name.startswith(("watch_", "list_"))
}


# --- the benchmark ---------------------------------------------------------------------------------------------------


class Process:
    """A candidate, and the last line that it printed."""

    def __init__(self, name: str, kubeconfig: Path) -> None:
        self.name = name
        self._env = os.environ | {"KUBECONFIG": str(kubeconfig)}
        self.last: dict[str, Any] = {}

    async def __aenter__(self) -> Process:
        self.began = time.time()
        command = (sys.executable, __file__, "--as", self.name)
        self._process = await asyncio.create_subprocess_exec(
            *command, env=self._env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=2**24
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._reading.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self.last = json.loads(line)

    async def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 120) -> float:
        """Return the time at which the candidate printed a line for which `holds` is true."""
        deadline = time.time() + seconds
        while not (self.last and holds(self.last)):
            if time.time() > deadline:
                raise SystemExit(f"{self.name}: not within {seconds:.0f} s: {str(self.last)[:200]}")
            await asyncio.sleep(0.002)
        return float(self.last["time"])

    def usage(self) -> str:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        memory = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        return f"{cpu:.1f} s of CPU, {memory:.0f} MB"


class Proxy:
    """Forwards a fixed port to the API server, as a load balancer does; `cut` ends all connections."""

    def __init__(self) -> None:
        self.target: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        self.target = None
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target is None:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, back}
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        self._writers -= {writer, back}

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()


def pod(number: int) -> dict[str, Any]:
    """Return a pod as the operator renders it, so that it has the usual size."""
    from fixtures.kube_controllers import _pod
    from fixtures.operator_harness import SPEC, deployment
    from gllm_operator.local.manifest import NO_UID, objects_of
    from gllm_operator.names import FINALIZER

    llm = deployment(SPEC, "llm")
    llm["metadata"] |= {"namespace": NAMESPACE, "uid": NO_UID, "finalizers": [FINALIZER]}
    sets = [one for one in objects_of(llm, keys="k") if one["kind"] == "StatefulSet"]
    sets[0]["metadata"]["uid"] = NO_UID
    return _pod(sets[0], number)


def port_of(server: str) -> int:
    return int(server.rpartition(":")[2])


@contextlib.asynccontextmanager
async def control_plane(folder: Path, data: Path, proxy: Proxy) -> AsyncIterator[Any]:
    from fixtures.api_server import api_server
    from gllm_operator.kube.client import ApiClient

    with api_server(folder, data) as access:
        async with ApiClient(access) as api:
            proxy.target = port_of(access.server)
            yield api


async def measure_watch(name: str, folder: Path, count: int, kubeconfig: Path, data: Path, proxy: Proxy) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with control_plane(folder, data, proxy) as api:
            for number in range(count):
                await api.create(pod(number))
            process = await stack.enter_async_context(Process(name, kubeconfig))
            held = await process.until(lambda last: last["held"] == count)
            print(f"{name:<12} start   {held - process.began:.2f} s, {process.usage()} for {count} pods")
            delays = []
            for number in range(CHANGES):
                body = {"metadata": {"annotations": {"mark": f"m{number}"}}}
                found = pod(number)["metadata"]["name"]
                sent = time.time()
                await api.patch(*KIND, NAMESPACE, found, body)
                delays.append(await process.until(lambda last, n=number: f"m{n}" in last["marks"]) - sent)
            print(f"{name:<12} change  median {statistics.median(delays):.3f} s, slowest {max(delays):.3f} s")
            proxy.cut()
            for number in range(DELETED):
                metadata = pod(number)["metadata"]
                found = await api.get(*KIND, NAMESPACE, metadata["name"])
                await api.delete(*KIND, NAMESPACE, metadata["name"], found["metadata"]["uid"], force=True)
        async with control_plane(folder, data, proxy) as api:
            await asyncio.sleep(15)  # Until the candidate has connected and listed again.
            body = {"metadata": {"annotations": {"mark": "last"}}}
            await api.patch(*KIND, NAMESPACE, pod(count - 1)["metadata"]["name"], body)
            await process.until(lambda last: "last" in last["marks"])
            print(f"{name:<12} ghosts  {process.last['held'] - (count - DELETED)} of {DELETED} deleted pods")


async def measure_list(name: str, kubeconfig: Path) -> None:
    async with Process(name, kubeconfig) as process:
        held = await process.until(lambda last: True)
        print(f"{name:<16} {held - process.began:.2f} s, {process.usage()} for {process.last['held']} pods")


async def run(folder: Path, count: int, clients: bool) -> None:
    import kopf

    from fixtures.api_server import write_kubeconfig
    from gllm_operator.kube.login import Login

    proxy = Proxy()
    server = f"https://127.0.0.1:{await proxy.start()}"
    login = Login(kopf.ConnectionInfo(server=server, token="test-token", insecure=True))
    names = [name for name in CANDIDATES if name.startswith("list_" if clients else "watch_")]
    with tempfile.TemporaryDirectory() as data:
        kubeconfig = Path(data) / "kubeconfig"
        write_kubeconfig(login, kubeconfig)
        if clients:
            async with control_plane(folder, Path(data), proxy) as api:
                for number in range(count):
                    await api.create(pod(number))
                for name in names:
                    library = name.removeprefix("list_")
                    if library == "own" or importlib.util.find_spec(library):
                        await measure_list(name, kubeconfig)
            return
        for name in names:
            own = Path(data) / name
            own.mkdir()
            await measure_watch(name, folder, count, kubeconfig, own, proxy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--clients", action="store_true", help="compare clients instead of watches")
    parser.add_argument("--as", dest="candidate", choices=CANDIDATES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.candidate:
        asyncio.run(hold(CANDIDATES[given.candidate]))
        return
    from fixtures.api_server import binaries

    folder = binaries()
    if folder is None:
        sys.exit("no kube-apiserver here: set KUBEBUILDER_ASSETS to the folder of etcd and kube-apiserver")
    asyncio.run(run(folder, given.count, given.clients))


async def hold(candidate: Callable[[], Any]) -> None:
    await candidate()
    await asyncio.Event().wait()  # The benchmark reads the memory, and then ends this process.


if __name__ == "__main__":
    main()
