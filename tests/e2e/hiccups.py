"""A bad connection between the operator and the API server: resets and freezes, every few seconds."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import threading
import time
from collections.abc import Iterator

from e2e.kube import NAMESPACE, OPERATOR, Kube

_EVERY, _LASTS = 5.0, 2.0
"""Seconds from one hiccup to the next, and of each."""


@contextlib.contextmanager
def hiccups(kube: Kube) -> Iterator[list[str]]:
    """In turn all TCP connections of the operator are reset for 2 s, and the API server is frozen for 2 s.

    Only on the cluster of ../shared/k8s, as root. Yields the list of the hiccups so far.
    """
    done: list[str] = []
    stop = threading.Event()

    def run() -> None:
        for kind in itertools.cycle(("reset", "freeze")):
            if stop.wait(_EVERY - _LASTS):
                return
            if kind == "reset":
                _reset(kube)
            else:
                _freeze(kube)
            done.append(kind)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def _reset(kube: Kube) -> None:
    namespaces = [found for pod in _operator_addresses(kube) if (found := _network_of(pod))]
    deadline = time.monotonic() + _LASTS
    while time.monotonic() < deadline:
        for name in namespaces:
            _run("ip", "netns", "exec", name, "ss", "--kill", "--tcp", "state", "connected", "dport", "=", ":443")
        time.sleep(0.05)


def _freeze(kube: Kube) -> None:
    kube.cluster.do("pause", "kube-apiserver")
    try:
        time.sleep(_LASTS)
    finally:
        kube.cluster.do("resume", "kube-apiserver")


def _operator_addresses(kube: Kube) -> list[str]:
    pods = kube.get("pods", "-n", NAMESPACE, "-l", OPERATOR)["items"]
    return [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]


def _network_of(address: str) -> str | None:
    """The network namespace of the pod with this address; the nodes share the machine's list of them."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith("cni-") and f"inet {address}/" in _run("ip", "-n", name, "-4", "-o", "address"):
            return name
    return None


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout
