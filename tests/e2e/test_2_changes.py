"""Edits of the LLMDeployment under load; no request is lost."""

from __future__ import annotations

import time

import pytest

from e2e import chaos
from e2e.kube import Kube, is_ready, until
from e2e.steps import nothing_lost, serving, under_load

pytestmark = pytest.mark.timing


def test_scale_up_and_down(kube: Kube) -> None:
    serving(kube)
    with under_load(kube, "kubectl scale 1 -> 3 -> 1") as load:
        kube.kubectl("scale", "llm", "smol", "--replicas=3")
        kube.wait_complete(3)
        load.wait_for(6)
        kube.kubectl("scale", "llm", "smol", "--replicas=1")
        kube.wait_complete(1)
    nothing_lost(load.report)


def test_scale_to_zero_and_back(kube: Kube) -> None:
    """What runs is finished. Requests are refused only from then until the new group serves."""
    serving(kube)
    with under_load(kube, "kubectl scale 1 -> 0 -> 1") as load:
        kube.kubectl("scale", "llm", "smol", "--replicas=0")
        until("no pods", lambda: not kube.pods(), 60, kube.describe)
        assert (kube.status()["ready"], kube.condition("Ready")["reason"]) == ("0/0", "NoGroups")
        assert not kube.get("statefulsets")["items"]
        kube.kubectl("scale", "llm", "smol", "--replicas=1")
        kube.wait_complete(1)
        serves = time.monotonic()
    broken = [failure for failure in load.report.failures if failure.began or failure.sent_at > serves]
    assert not broken, broken
    assert load.report.differing == 0, load.report.line()


def test_arguments_image_and_shape_change(kube: Kube) -> None:
    serving(kube)
    revisions = {kube.status()["currentRevision"]}
    # The same image under another name.
    other = kube.cluster.runtime if "/" in kube.cluster.runtime else f"docker.io/library/{kube.cluster.runtime}"
    with under_load(kube, "other arguments; re-shard PP2 -> PP1 with another image; and back") as load:
        chaos.edit(kube)
        revisions.add(kube.wait_complete(1)["currentRevision"])
        load.wait_for(3)
        kube.patch({"parallelism": {"pipeline": 1}, "image": other})
        status = kube.wait_complete(1)
        revisions.add(status["currentRevision"])
        assert status["shape"]["summary"] == "PP1xTP1"
        assert len([pod for pod in kube.pods() if "deletionTimestamp" not in pod["metadata"]]) == 1
        load.wait_for(3)
        kube.patch({"parallelism": {"pipeline": 2}})
        status = kube.wait_complete(1)
        revisions.add(status["currentRevision"])
        assert status["shape"]["summary"] == "PP2xTP1"
    assert len(revisions) == 4
    nothing_lost(load.report)


def test_paused(kube: Kube) -> None:
    """A change waits while the rollout is paused; scaling does not."""
    serving(kube)
    before = kube.status()["currentRevision"]
    with under_load(kube, "paused, changed, scaled, resumed") as load:
        kube.patch({"rollout": {"paused": True}, "engine": {"maxNumSeqs": 9}})

        def held() -> bool:
            progress = kube.condition("Progressing")
            return (progress["status"], progress["reason"]) == ("False", "Paused")

        until("paused", held, 20, kube.describe)
        kube.kubectl("scale", "llm", "smol", "--replicas=2")
        until("two groups", lambda: kube.status()["ready"] == "2/2", 60, kube.describe)
        assert {one["revision"] for one in kube.status()["groups"]} == {before}
        kube.patch({"replicas": 1, "rollout": {"paused": False}})
        assert kube.wait_complete(1)["currentRevision"] != before
    nothing_lost(load.report)


def test_a_rollout_without_surge(kube: Kube) -> None:
    """maxSurge 0, maxUnavailable 1: never more groups than replicas, and at least one serves."""
    serving(kube, 2)
    seen: list[tuple[int, int]] = []
    with under_load(kube, "a rollout in place, 2 groups") as load:
        kube.patch({"rollout": {"maxSurge": 0, "maxUnavailable": 1}, "engine": {"maxNumSeqs": 11}})

        def watched() -> bool:
            masters = kube.pods(role="master")
            ready = sum(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in masters)
            seen.append((len(masters), ready))
            return kube.complete(2)

        until("both groups new", watched, 180, kube.describe)
    nothing_lost(load.report)
    assert max(count for count, _ in seen) <= 2, seen
    assert min(ready for _, ready in seen) >= 1, seen
    kube.patch({"rollout": {"maxSurge": None, "maxUnavailable": None}})


def test_an_image_that_cannot_be_pulled_is_told(kube: Kube) -> None:
    """The old revision serves, the status does not say Ready, and it names the cause within seconds."""
    serving(kube)
    with under_load(kube, "an image that cannot be pulled, and back") as load:
        kube.patch({"image": "registry.invalid/gllm:nope"})
        until("the cause", lambda: "registry.invalid" in kube.condition("Progressing")["message"], 60, kube.describe)
        status = kube.status()
        assert (status["ready"], status["updatedReplicas"], status["reason"]) == ("1/1", 0, "RollingOut")
        assert {one["phase"] for one in status["groups"]} == {"Ready", "Pending"}
        with pytest.raises(RuntimeError):
            kube.kubectl("wait", "--for=condition=Ready", "llm/smol", "--timeout=1s")
        load.wait_for(3)
        kube.patch({"image": kube.cluster.runtime})
        kube.kubectl("wait", "--for=condition=Ready", "llm/smol", "--timeout=120s", seconds=150)
        kube.wait_complete(1)
    nothing_lost(load.report)


def test_a_bad_revision_is_rolled_back(kube: Kube) -> None:
    """The new revision never starts. The old one serves throughout, and the status has the reason."""
    serving(kube)
    with under_load(kube, "a revision that cannot start, rolled back") as load:
        kube.patch({"model": {"source": "file:///models/nowhere"}, "rollout": {"progressDeadlineSeconds": 25}})

        def rolled_back() -> bool:
            conditions = {one["type"]: one for one in kube.status()["conditions"]}
            return conditions["RolledBack"]["status"] == "True" and len(kube.status()["groups"]) == 1

        until("rolled back", rolled_back, 120, kube.describe)
    nothing_lost(load.report)
    assert kube.status()["ready"] == "1/1"
    kube.patch({"rollout": {"progressDeadlineSeconds": None}})  # `kubectl apply` removes only fields that it has set.
