"""What breaks under load, and what that costs."""

from __future__ import annotations

import time

from e2e.kube import Kube, until
from e2e.steps import NAMESPACE, nothing_lost, serving, under_load


def master(kube: Kube) -> str:
    name: str = kube.pods(role="master")[0]["metadata"]["name"]
    return name


def slave(kube: Kube) -> str:
    name: str = kube.pods(role="slave")[0]["metadata"]["name"]
    return name


def test_a_worker_is_killed(kube: Kube) -> None:
    serving(kube)
    for role, pod in (("master", master(kube)), ("slave", slave(kube))):
        with under_load(kube, f"a worker of the {role} killed") as load:
            kube.kill_worker(pod)
            load.wait_for(4)
        nothing_lost(load.report)
        kube.wait_settled(1)


def test_a_slave_pod_is_deleted(kube: Kube) -> None:
    serving(kube)
    with under_load(kube, "slave pod deleted by force") as load:
        kube.kubectl("delete", "pod", slave(kube), "--grace-period=0", "--force")
        load.wait_for(4)
        kube.wait_settled(1)
    nothing_lost(load.report)


def test_a_master_pod_is_deleted(kube: Kube) -> None:
    """In order (an eviction, say) nothing is lost. By force its open streams may break, and nothing else."""
    serving(kube, 2)
    with under_load(kube, "master pod deleted in order, 2 groups") as load:
        kube.kubectl("delete", "pod", master(kube), "--wait=false")
        load.wait_for(6)
        kube.wait_settled(2)
    nothing_lost(load.report)
    with under_load(kube, "master pod deleted by force, 2 groups") as load:
        at = time.monotonic()
        kube.kubectl("delete", "pod", master(kube), "--grace-period=0", "--force")
        gone = time.monotonic()
        load.wait_for(6)
        kube.wait_settled(2)
    late = [failure for failure in load.report.failures if not at - 60 < failure.sent_at < gone + 1]
    assert not late, late
    assert load.report.lost <= load.streams, load.report.line()


def test_the_operator_dies_in_a_rollout(kube: Kube) -> None:
    serving(kube)
    with under_load(kube, "operator killed in a rollout") as load:
        kube.patch({"engine": {"maxNumSeqs": 12}})
        until("the new group", lambda: len(kube.status()["groups"]) == 2, 30)
        kube.kubectl("delete", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=gllm-operator",
                     "--grace-period=0", "--force")  # fmt: skip
        kube.wait_settled(1)
    nothing_lost(load.report)
