"""Wrappers of kubectl and helm, and waits with a deadline."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

from e2e.cluster import Cluster, program, run
from fixtures.metrics import metric_sum

Object = dict[str, Any]

NAMESPACE = "gllm-system"
OPERATOR = "app.kubernetes.io/name=gllm-operator"
"""Where the operator runs, and the label of its pods."""

_KILL = """
import os, signal, sys
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        words = open(f'/proc/{pid}/cmdline', 'rb').read().split(b'\\0')
    except OSError:
        continue
    if b'gllm.worker' in words:
        os.kill(int(pid), signal.SIGKILL)
        sys.exit(print('killed', pid))
sys.exit('no worker here')
"""


def until(what: str, probe: Callable[[], Any], seconds: float, detail: Callable[[], str] = lambda: "") -> Any:
    """Return the first true result of the probe. Errors of kubectl count as false."""
    deadline, problem = time.monotonic() + seconds, ""
    while True:
        try:
            if found := probe():
                return found
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            problem = str(error)[-500:]
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s; {problem}\n{detail()}")
        time.sleep(0.3)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


class Kube:
    def __init__(self, cluster: Cluster, namespace: str = "default") -> None:
        """namespace: that of all commands without `-n`."""
        self.cluster = cluster
        self._helm = program("helm")
        self._command = (program("kubectl"), "--kubeconfig", cluster.kubeconfig, "--namespace", namespace)

    def kubectl(self, *arguments: str, seconds: float = 60) -> str:
        return run([*self._command, *arguments], seconds)

    def helm(self, *arguments: str, seconds: float = 420) -> str:
        return run([self._helm, "--kubeconfig", self.cluster.kubeconfig, *arguments], seconds)

    def get(self, *arguments: str) -> Object:
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def apply(self, manifest: Object) -> None:
        command = [*self._command, "apply", "-f", "-"]
        if own := manifest["metadata"].get("namespace"):
            command += ["--namespace", own]
        done = subprocess.run(
            command, input=json.dumps(manifest), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr

    def patch(self, spec: Object, name: str = "smol") -> None:
        self.kubectl("patch", "llm", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    # --- an LLMDeployment --------------------------------------------------------------------------------

    def status(self, name: str = "smol") -> Object:
        found: Object = self.get("llm", name).get("status") or {}
        return found

    def condition(self, kind: str, name: str = "smol") -> Object:
        conditions = self.status(name).get("conditions", [])
        found: Object = next((one for one in conditions if one["type"] == kind), {"status": "", "reason": ""})
        return found

    def pods(self, name: str = "smol", role: str = "") -> list[Object]:
        selector = f"gllm.dev/deployment={name}" + (f",gllm.dev/role={role}" if role else "")
        found: list[Object] = self.get("pods", "-l", selector)["items"]
        return found

    def complete(self, groups: int, name: str = "smol") -> Object | None:
        """Return the status if exactly so many groups exist and serve, all with the newest spec."""
        found = self.get("llm", name)
        status: Object = found.get("status") or {}
        progress = next((one for one in status.get("conditions", []) if one["type"] == "Progressing"), {})
        good = (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("ready") == f"{groups}/{groups}"
            and status.get("updatedReplicas") == groups
            and len(status.get("groups", [])) == groups
            and progress.get("reason") == "Complete"
            and all(
                ready == total for ready, total in (one["readyRanks"].split("/") for one in status.get("groups", []))
            )
        )
        return status if good else None

    def wait_complete(self, groups: int, name: str = "smol", seconds: float = 240) -> Object:
        """Wait until exactly so many groups exist and serve, all with the newest spec."""
        found: Object = until(
            f"{name} with {groups} groups", lambda: self.complete(groups, name), seconds, lambda: self.describe(name)
        )
        return found

    def describe(self, name: str = "smol") -> str:
        """Output of kubectl for the message of a failed test."""
        texts = []
        for command in (
            ("get", "llm,pods", "-o", "wide"),
            ("describe", "llm", name),
            ("logs", "-n", NAMESPACE, "-l", OPERATOR, "--tail=20"),
            ("logs", "-l", f"gllm.dev/deployment={name}", "--tail=8", "--prefix"),
        ):
            try:
                texts.append(self.kubectl(*command))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                texts.append(str(error)[-300:])
        return "\n".join(texts)

    def kill_worker(self, pod: str) -> None:
        self.kubectl("exec", pod, "--", "python3", "-c", _KILL)

    def metric(self, pod: str, name: str) -> float:
        """The sum of an operator's metric, without writes of its lease."""
        text = self.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics")
        return metric_sum(text, name, without='kind="Lease"')

    def events(self) -> list[Object]:
        found: list[Object] = self.get("events", "--field-selector", "involvedObject.kind=LLMDeployment")["items"]
        return found
