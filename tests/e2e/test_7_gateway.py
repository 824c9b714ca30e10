"""spec.gateway: gateways in front of the groups. No stream is lost, whatever goes; a request wakes a group."""

from __future__ import annotations

import time

import pytest
from openai import OpenAI

from e2e import chaos
from e2e.kube import Kube, until
from e2e.steps import endpoint, nothing_lost, serving, under_load

pytestmark = pytest.mark.timing

TIER = {"replicas": 2, "waitSeconds": 300}


def test_no_stream_is_lost_with_a_master(kube: Kube) -> None:
    serving(kube, 2, gateway=TIER)
    with under_load(kube, "master pod deleted by force, 2 groups behind gateways") as load:
        chaos.kill_master(kube)
        load.wait_for(load.streams)
    nothing_lost(load.report)
    with under_load(kube, "a rollout behind gateways") as load:
        chaos.edit(kube)
        kube.wait_complete(2)
    nothing_lost(load.report)


def test_a_request_wakes_a_group(kube: Kube) -> None:
    """Without requests there are no groups. A request waits for the group that it starts."""
    serving(kube, 1, gateway={**TIER, "idleSeconds": 8})
    url = endpoint(kube)
    began = time.monotonic()
    until("no groups", lambda: kube.status().get("idle") and not kube.pods(), 90, kube.describe)
    idle = time.monotonic()
    assert (kube.condition("Ready")["reason"], kube.get("llm", "smol")["spec"]["replicas"]) == ("Idle", 1)
    answer = OpenAI(base_url=url, api_key="none", timeout=200, max_retries=0).chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=30,
    )
    print(
        f"\n  no groups {idle - began:.0f} s after the last request; the next one was answered after "
        f"{time.monotonic() - idle:.1f} s",
        flush=True,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    until("a group serves", lambda: kube.status()["readyReplicas"] == 1, 30, kube.describe)


def test_the_only_master_is_preempted(kube: Kube) -> None:
    """Requests wait at the gateways while the group starts on the other node."""
    if kube.cluster.kind != "shared":
        pytest.skip("this cluster's nodes are not ours to change")
    serving(kube, 0, gateway=TIER, **chaos.SLOT_SPEC)
    chaos.one_slot(kube)
    try:
        serving(kube, 1, gateway=TIER, **chaos.SLOT_SPEC)
        with under_load(kube, "the only master preempted, behind gateways") as load:
            chaos.preempt_master(kube)
            load.wait_for(load.streams)
        nothing_lost(load.report)
    finally:
        chaos.no_slots(kube)
