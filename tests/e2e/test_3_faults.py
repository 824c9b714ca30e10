"""Failures under load, and their effect on requests."""

from __future__ import annotations

import time

import pytest

from e2e import chaos
from e2e.kube import Kube, until
from e2e.load import EACH, Load
from e2e.steps import (
    kill,
    leaders,
    nothing_lost,
    operators,
    rolling,
    serving,
    set_operators,
    under_load,
)

pytestmark = pytest.mark.timing


def test_a_worker_is_killed(kube: Kube) -> None:
    serving(kube)
    with under_load(kube, "a worker of the master killed, then one of the slave") as load:
        for pod in (chaos.master(kube), chaos.slave(kube)):
            kube.kill_worker(pod)
            load.wait_for(load.streams)
            kube.wait_complete(1)
    nothing_lost(load.report)


def test_a_slave_pod_is_deleted(kube: Kube) -> None:
    serving(kube)
    with under_load(kube, "slave pod deleted by force") as load:
        kube.kubectl("delete", "pod", chaos.slave(kube), "--grace-period=0", "--force")
        # Requests that arrive while the only group recovers wait like the others.
        time.sleep(2)
        with Load(load.url, streams=3, clients=EACH) as late:
            late.wait_for(late.streams)
        kube.wait_complete(1)
    nothing_lost(load.report)
    nothing_lost(late.report)
    print(f"\n  of those, sent during the recovery: {late.report.line()}", flush=True)


def test_a_master_pod_is_deleted(kube: Kube) -> None:
    """A graceful deletion, such as an eviction, loses nothing. A forced one may break open streams only."""
    serving(kube, 2)
    with under_load(kube, "master pod deleted in order, 2 groups") as load:
        kube.kubectl("delete", "pod", chaos.master(kube), "--wait=false")
        load.wait_for(2 * load.streams)
        kube.wait_complete(2)
    nothing_lost(load.report)
    with under_load(kube, "master pod deleted by force, 2 groups") as load:
        at = time.monotonic()
        kube.kubectl("delete", "pod", chaos.master(kube), "--grace-period=0", "--force")
        gone = time.monotonic()
        load.wait_for(2 * load.streams)
        kube.wait_complete(2)
    late = [failure for failure in load.report.failures if not at - 60 < failure.sent_at < gone + 1]
    assert not late, late
    assert load.report.lost <= load.streams, load.report.line()


def test_the_operator_is_killed(kube: Kube) -> None:
    """In a recovery, whose pod is replaced while no operator runs; in a rollout; and while a group with long requests
    drains."""
    serving(kube)
    with under_load(kube, "operator killed in a recovery, a rollout and a scale-down", max_tokens=150) as load:
        kube.kubectl("delete", "pod", chaos.slave(kube), "--grace-period=0", "--force")
        until("the recovery", lambda: kube.status()["groups"][0]["phase"] == "Recovering", 30, kube.describe)
        kill(kube, *operators(kube))
        kube.wait_complete(1)
        chaos.edit(kube, replicas=2)
        until("a new group", lambda: rolling(kube), 30)
        kill(kube, *operators(kube))
        kube.wait_complete(2)
        load.wait_for(load.streams)
        kube.kubectl("scale", "llm", "smol", "--replicas=1")
        until("a group drains", lambda: "Draining" in chaos.phases(kube), 30)
        kill(kube, *operators(kube))
        kube.wait_complete(1)
    nothing_lost(load.report)


def test_two_operators(kube: Kube) -> None:
    """The leader is killed in a rollout, and the other operator completes it."""
    serving(kube)
    set_operators(kube, 2)
    until("one that leads", lambda: len(leaders(kube)) == 1, 60)
    try:
        with under_load(kube, "the leader of two operators killed in a rollout") as load:
            kube.patch({"engine": {"maxNumSeqs": 10}})
            until("the new group", lambda: rolling(kube), 30)
            (leader,) = leaders(kube)
            standby = next(name for name in operators(kube) if name != leader)
            assert kube.metric(standby, "gllm_operator_writes_total") == 0, "a standby wrote"
            began = time.monotonic()
            kill(kube, leader)
            until("the standby leads", lambda: kube.metric(standby, "gllm_operator_leads ") == 1, 60)
            print(f"\n  the standby led after {time.monotonic() - began:.0f} s", flush=True)
            kube.wait_complete(1)
        nothing_lost(load.report)
        assert len(leaders(kube)) == 1
        told = [(one["reason"], one["message"], one["metadata"]["creationTimestamp"]) for one in kube.events()]
        assert len(told) == len(set(told)), "an event was repeated"
    finally:
        set_operators(kube, 1)
