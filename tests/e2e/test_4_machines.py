"""Lost and disconnected nodes, and a control plane that hangs. Only a cluster of ../shared/k8s can do this."""

from __future__ import annotations

import contextlib
import time

import pytest

from e2e import chaos
from e2e.hiccups import hiccups
from e2e.kube import Kube, is_ready, until
from e2e.steps import nothing_lost, serving, under_load

pytestmark = pytest.mark.timing


@pytest.fixture(autouse=True)
def shared(kube: Kube) -> None:
    if kube.cluster.kind != "shared":
        pytest.skip("this cluster's machines are not ours to break")


def _node_of_the_slave(kube: Kube) -> str:
    """Return a node without masters. After a drain or a node loss both pods may share a node; then the slave is moved.

    It is deleted by force: in order it would serve for the drain timeout.
    """
    for _ in range(4):
        node: str = kube.pods(role="slave")[0]["spec"]["nodeName"]
        if node not in {pod["spec"]["nodeName"] for pod in kube.pods(role="master")}:
            return node
        kube.kubectl("delete", "pod", kube.pods(role="slave")[0]["metadata"]["name"], "--force", "--grace-period=0")
        kube.wait_complete(1)
    raise AssertionError(f"master and slave stay on {node}")


def test_the_control_plane_hangs(kube: Kube) -> None:
    """Serving continues meanwhile, and the operator continues afterwards.

    Kubernetes itself has an effect: nodes whose leases were not renewed within its grace (12 s on this cluster, 50 s by
    default) count as lost at first, and their pods are removed from their Services until the kubelets have reported.
    New connections may be refused in these seconds; no stream breaks.
    """
    serving(kube)
    resumed: list[float] = []
    with under_load(kube, "kube-apiserver, then etcd, frozen for 20 s") as load:
        for part in ("kube-apiserver", "etcd"):
            kube.cluster.do("pause", part)
            try:
                time.sleep(20)
            finally:
                kube.cluster.do("resume", part)
            resumed.append(time.monotonic())
            load.wait_for(load.streams)
            kube.wait_complete(1)
        kube.kubectl("scale", "llm", "smol", "--replicas=2")
        kube.wait_complete(2)
    assert load.report.differing == 0, load.report.line()
    ours = [one for one in load.report.failures if one.began or not any(-12 < one.sent_at - at < 20 for at in resumed)]
    assert not ours, ours


@pytest.mark.parametrize("groups", [1, 2])
def test_a_drain_takes_no_group_before_a_new_one_serves(kube: Kube, groups: int) -> None:
    """`kubectl drain` of a node on which all groups have pods, and maybe the operator: as many groups serve at each
    moment as the spec asks for."""
    serving(kube, groups)
    node = kube.pods(role="master")[0]["spec"]["nodeName"]
    least = [groups]

    def drained() -> bool:
        ready = sum(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in kube.pods(role="master"))
        least.append(min(ready, kube.status()["readyReplicas"]))
        return not any(pod["spec"].get("nodeName") == node for pod in kube.pods())

    ours = "--pod-selector=app.kubernetes.io/name in (gllm, gllm-operator)"
    with under_load(kube, f"kubectl drain {node}, {groups} groups") as load:
        try:
            deadline = time.monotonic() + 240
            while not drained():
                assert time.monotonic() < deadline, kube.describe()
                with contextlib.suppress(RuntimeError):  # It has not ended within a second.
                    kube.kubectl("drain", node, "--ignore-daemonsets", ours, "--delete-emptydir-data", "--timeout=1s")
        finally:
            kube.kubectl("uncordon", node)
        load.wait_for(load.streams)
        kube.wait_complete(groups)
    assert min(least) >= groups, least
    nothing_lost(load.report)


def test_a_node_is_disconnected(kube: Kube) -> None:
    serving(kube)
    node = _node_of_the_slave(kube)
    with under_load(kube, f"{node} (the slave's) cut off for 8 s") as load:
        kube.cluster.do("cut", node)
        time.sleep(8)
        kube.cluster.do("heal", node)
        load.wait_for(load.streams, 180)
        kube.wait_complete(1)
    nothing_lost(load.report)


def test_a_node_is_lost(kube: Kube) -> None:
    serving(kube)
    node = _node_of_the_slave(kube)
    with under_load(kube, f"{node} (the slave's) lost") as load:
        kube.cluster.do("kill", node)
        load.wait_for(load.streams, 180)
        kube.cluster.do("revive", node)
        kube.wait_complete(1)
    nothing_lost(load.report)


def test_the_api_server_has_hiccups(kube: Kube) -> None:
    """For two minutes. Edits are carried out, what is deleted by hand comes back, and no ghost stays."""
    serving(kube)
    with under_load(kube, "hiccups of the API server every 5 s for 2 minutes") as load:
        began = time.monotonic()
        with hiccups(kube) as done:
            while time.monotonic() < began + 110:
                _restored(kube, "poddisruptionbudget")
                chaos.edit(kube)
                kube.wait_complete(1)
                _restored(kube, "networkpolicy")
                kube.kubectl("scale", "llm", "smol", "--replicas=2")
                kube.wait_complete(2)
                kube.kubectl("scale", "llm", "smol", "--replicas=1")
                kube.wait_complete(1)
        kube.wait_complete(1)
    assert len(done) > 15, done
    nothing_lost(load.report)
    sets = {one["metadata"]["labels"]["gllm.dev/group"] for one in kube.get("statefulsets")["items"]}
    assert sets == {group["name"] for group in kube.status()["groups"]}


def _restored(kube: Kube, kind: str) -> None:
    """An object is deleted by hand, and comes back."""
    name = kube.get(kind, "-l", "gllm.dev/deployment=smol")["items"][0]["metadata"]["name"]

    def uid() -> str | None:
        found = kube.get(kind, "--field-selector", f"metadata.name={name}")["items"]
        return found[0]["metadata"]["uid"] if found else None

    before = uid()
    kube.kubectl("delete", kind, name)
    until(f"{kind} {name} is back", lambda: uid() not in (None, before), 60, kube.describe)


def test_all_serving_nodes_are_lost(kube: Kube) -> None:
    """Both masters, their slaves and the operator were on the node that loses power. Nothing is asked of anyone."""
    serving(kube, 0)
    chaos.gather_on_node_2(kube)
    try:
        serving(kube, 2)
        with under_load(kube, "the node with both masters and the operator lost") as load:
            began = time.monotonic()
            chaos.lose_node_2(kube)
            healed = time.monotonic()
            load.wait_for(load.streams)
        print(f"\n  both groups serve again after {healed - began:.0f} s", flush=True)
    finally:
        chaos.revive_node_2(kube)
    assert load.report.differing == 0, load.report.line()
    late = [failure for failure in load.report.failures if failure.sent_at > healed]
    assert not late, late
