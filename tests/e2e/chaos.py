"""The rows of the table of docs/chaos.md. Each function returns when all groups serve again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from e2e.kube import NAMESPACE, Kube, Object, until
from e2e.steps import kill, operators, rolling

SLOT = "example.com/slot"
"""A resource of which a node has as many as a test wants."""
DOOMED = "doomed"
_FORCE = ("--grace-period=0", "--force", "--wait=false")


@dataclass(frozen=True)
class Row:
    what: str
    before: str
    """Sent, lost and longest pause at commit 7552eb9, on fresh connections unless it says otherwise."""
    act: Callable[[Kube], None]
    groups: int = 1
    """How many serve before."""
    another_serves: bool = True
    """Whether a group serves at each moment."""
    machines: bool = False
    """Whether it needs a cluster whose machines may be broken."""
    spec: Object = field(default_factory=dict)
    """Other fields of the spec than examples/smol.yaml has."""
    prepare: Callable[[Kube], None] | None = None
    """Called while the deployment has no groups."""
    namespace: str = "default"
    serves_again: bool = True
    """Otherwise the load ends with what is done."""
    restore: Callable[[Kube], None] | None = None
    """Called at the end, also after a failure."""


def master(kube: Kube) -> str:
    return _newest(kube, "master")


def slave(kube: Kube) -> str:
    return _newest(kube, "slave")


def _newest(kube: Kube, role: str) -> str:
    pods = [pod for pod in kube.pods(role=role) if "deletionTimestamp" not in pod["metadata"]]
    name: str = pods[0]["metadata"]["name"]
    return name


def edit(kube: Kube, **more: object) -> None:
    """Change an argument, which makes a new revision. more: other fields of the spec, changed at the same time."""
    before = kube.get("llm", "smol")["spec"]["engine"].get("maxNumSeqs", 8)
    kube.patch({"engine": {"maxNumSeqs": before % 90 + 8}, **more})


def rollout(kube: Kube) -> None:
    edit(kube)
    kube.wait_complete(1)


def reshard(kube: Kube) -> None:
    for pipeline in (1, 2, 4, 1):
        kube.patch({"parallelism": {"pipeline": pipeline}})
        kube.wait_complete(1)


def eight_edits(kube: Kube) -> None:
    for _ in range(8):
        edit(kube)
        time.sleep(0.5)
    kube.wait_complete(1)


def scale_through_zero(kube: Kube) -> None:
    for replicas in (3, 0, 2):
        kube.kubectl("scale", "llm", "smol", f"--replicas={replicas}")
        time.sleep(4 if replicas != 2 else 0)
    kube.wait_complete(2)


def kill_slave(kube: Kube) -> None:
    kube.kubectl("delete", "pod", slave(kube), *_FORCE)
    _recovered(kube, 2)


def kill_master(kube: Kube) -> None:
    kube.kubectl("delete", "pod", master(kube), *_FORCE)
    _recovered(kube, 2)


def kill_slave_and_operator(kube: Kube) -> None:
    kube.kubectl("delete", "pod", slave(kube), *_FORCE)
    kill(kube, *operators(kube))
    _recovered(kube, 1)


def freeze_api(kube: Kube) -> None:
    edit(kube)
    until("the new group", lambda: rolling(kube), 30)
    kube.cluster.do("pause", "kube-apiserver")
    try:
        time.sleep(20)
    finally:
        kube.cluster.do("resume", "kube-apiserver")
    kube.wait_complete(1)


def kill_operators(kube: Kube) -> None:
    edit(kube)
    for _ in range(12):
        with contextlib.suppress(RuntimeError):  # It is being replaced.
            kill(kube, *operators(kube))
        time.sleep(4)
    kube.wait_complete(1)


def edit_and_back(kube: Kube) -> None:
    before = kube.get("llm", "smol")["spec"]["engine"].get("maxNumSeqs")
    edit(kube)
    until("the first group drains", lambda: "Draining" in phases(kube), 120, kube.describe)
    kube.patch({"engine": {"maxNumSeqs": before}})
    kube.wait_complete(1)


def drain_node(kube: Kube) -> None:
    node = kube.get("pod", master(kube))["spec"]["nodeName"]
    try:
        selector = ("--pod-selector=gllm.dev/deployment=smol", "--delete-emptydir-data")
        kube.kubectl("drain", node, "--ignore-daemonsets", *selector, "--timeout=240s", seconds=260)
        kube.wait_complete(2)
    finally:
        kube.kubectl("uncordon", node)


def gather_on_node_2(kube: Kube) -> None:
    """New groups and the operator go to node-2. Traffic from this machine enters the cluster by node-1."""
    kube.kubectl("cordon", "node-1")
    kill(kube, *operators(kube))
    kube.kubectl("rollout", "status", "deployment/gllm", "-n", NAMESPACE, "--timeout=90s", seconds=100)


def lose_node_2(kube: Kube) -> None:
    """Heal without the node."""
    kube.kubectl("uncordon", "node-1")
    lost = {pod["metadata"]["uid"] for pod in kube.pods(role="master")}
    kube.cluster.do("kill", "node-2")

    def healed() -> bool:
        return kube.complete(2) is not None and not lost & {pod["metadata"]["uid"] for pod in kube.pods(role="master")}

    until("both groups serve again", healed, 240, kube.describe)


def revive_node_2(kube: Kube) -> None:
    kube.kubectl("uncordon", "node-1")
    kube.cluster.do("revive", "node-2")
    kube.kubectl("wait", "--for=condition=Ready", "node/node-2", "--timeout=60s", seconds=90)


def one_slot(kube: Kube) -> None:
    """A node has room for one pod that asks for a slot."""
    _set_slots(kube, "1")
    kube.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "e2e-urgent"},
            "value": 1000,
        }
    )


def preempt_master(kube: Kube) -> None:
    """A pod of a higher priority takes the slot of the only master. There is room on the other node."""
    pod = kube.get("pod", master(kube))
    container = {
        "name": "sleep",
        "image": kube.cluster.operator,
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
        "resources": {"limits": {SLOT: "1", "cpu": "50m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    urgent: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "urgent"},
        "spec": {
            "priorityClassName": "e2e-urgent",
            "nodeSelector": {"kubernetes.io/hostname": pod["spec"]["nodeName"]},
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }
    kube.apply(urgent)
    until("the urgent pod runs", lambda: kube.get("pod", "urgent")["status"]["phase"] == "Running", 180, kube.describe)
    kube.wait_complete(1)


def delete_namespace(kube: Kube) -> None:
    kube.kubectl("delete", "namespace", DOOMED, "--wait=false")


def await_end_of_namespace(kube: Kube) -> None:
    kube.kubectl("wait", "--for=delete", f"namespace/{DOOMED}", "--timeout=200s", seconds=220)


def no_slots(kube: Kube) -> None:
    kube.kubectl("delete", "pod", "urgent", "--ignore-not-found")
    kube.kubectl("delete", "priorityclass", "e2e-urgent", "--ignore-not-found")
    kube.kubectl("delete", "llm", "smol", "--timeout=200s", seconds=220)  # Its pods ask for slots.
    _set_slots(kube, None)


def _set_slots(kube: Kube, count: str | None) -> None:
    body = json.dumps({"status": {"capacity": {SLOT: count}, "allocatable": {SLOT: count}}})
    for node in kube.get("nodes")["items"]:
        name = node["metadata"]["name"]
        kube.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", body)


def phases(kube: Kube) -> list[str]:
    return [group["phase"] for group in kube.status()["groups"]]


def _recovered(kube: Kube, groups: int) -> None:
    """The loss is noticed, and then all groups serve again."""
    until("the loss is noticed", lambda: not kube.complete(groups), 30, kube.describe)
    kube.wait_complete(groups)


SLOT_SPEC: Object = {
    "parallelism": {"pipeline": 1},
    "template": {
        "spec": {
            "containers": [
                {
                    "name": "gllm",
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "512Mi", SLOT: "1"},
                        "limits": {"memory": "3Gi", SLOT: "1"},
                    },
                }
            ]
        }
    },
}

ROWS = (
    Row("rollout", "69, **7**, 1.0 s (kept)", rollout),
    Row("re-shard PP2 → 1 → 2 → 4 → 1", "130, 0, 3.7 s", reshard),
    Row("8 edits in 6 s", "54, 0, 0.9 s", eight_edits),
    Row("scale 1 → 3 → 0 → 2 within 12 s", "23, 8, -", scale_through_zero, another_serves=False),
    Row("slave killed by force, 2 groups", "6, 0, **28.0 s**", kill_slave, groups=2),
    Row("master killed by force, 2 groups", "32, 2, 1.6 s", kill_master, groups=2),
    Row("API server frozen for 20 s in a rollout", "68, 0, 2.0 s", freeze_api, machines=True),
    Row("operator killed 12 times, every 4 s, in a rollout", "93, 0, 1.1 s", kill_operators),
    Row("slave and operator killed at once", "34, 0, 13.1 s", kill_slave_and_operator, another_serves=False),
    Row("node drained, 2 groups", "65, 0, **29.7 s**", drain_node, groups=2, machines=True),
    Row(
        "node with both masters and the operator lost",
        "688, 674, -",
        lose_node_2,
        groups=2,
        another_serves=False,
        machines=True,
        prepare=gather_on_node_2,
        restore=revive_node_2,
    ),
    Row("edit, and back while the first group drains", "121, 0, 0.6 s", edit_and_back),
    Row(
        "only master preempted by a higher priority",
        "40, **16**, 10 s",
        preempt_master,
        another_serves=False,
        machines=True,
        spec=SLOT_SPEC,
        prepare=one_slot,
        restore=no_slots,
    ),
    Row(
        "namespace deleted under streams",
        "1, 0, -",
        delete_namespace,
        another_serves=False,
        namespace=DOOMED,
        serves_again=False,
        restore=await_end_of_namespace,
    ),
)
