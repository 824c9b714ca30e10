"""Another version of the operator, which renders pods differently: downgrade and upgrade with changes in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e import chaos, older
from e2e.kube import NAMESPACE, Kube, until
from e2e.steps import nothing_lost, rolling, serving, under_load, upgrade

pytestmark = pytest.mark.timing


def test_the_operator_is_downgraded_and_upgraded(kube: Kube, tmp_path: Path) -> None:
    """Neither version changes a group that the other has made: its rendering is a revision of its own, rolled out."""
    if kube.cluster.kind == "given":
        pytest.skip("an image of another operator cannot be built into this cluster")
    what = older.sources(tmp_path)
    repository, _, tag = older.build(kube.cluster, tmp_path).rpartition(":")
    _, _, newer = kube.cluster.operator.rpartition(":")
    print(f"\n  the older operator: {what}", flush=True)
    serving(kube)
    groups = Groups(kube)
    with under_load(kube, "operator downgraded during an edit") as load:
        chaos.edit(kube)
        until("the new group", lambda: rolling(kube), 30)
        ours = kube.status()["updateRevision"]
        kube.helm(
            *("upgrade", "gllm", str(tmp_path / "charts/gllm"), "-n", NAMESPACE, "--wait", "--timeout", "2m"),
            *("--set", f"image.repository={repository},image.tag={tag}"),
        )
        until("the older rendering serves", lambda: groups.unchanged() and kube.complete(1), 120, kube.describe)
        theirs = kube.status()["currentRevision"]
    nothing_lost(load.report)
    assert theirs != ours, "both versions render the same"
    with under_load(kube, "operator upgraded while it scales up") as load:
        kube.kubectl("scale", "llm", "smol", "--replicas=2")
        until("the second group", lambda: rolling(kube), 30)
        upgrade(kube, f"image.tag={newer}")
        until("this rendering serves", lambda: groups.unchanged() and kube.complete(2), 180, kube.describe)
        assert kube.status()["currentRevision"] == ours
    nothing_lost(load.report)


class Groups:
    """The pods' templates of all StatefulSets that were seen."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._templates: dict[str, object] = {}

    def unchanged(self) -> bool:
        """Raises AssertionError if the pods of an existing StatefulSet have another template than before."""
        for one in self._kube.get("statefulsets")["items"]:
            before = self._templates.setdefault(one["metadata"]["uid"], one["spec"]["template"])
            assert one["spec"]["template"] == before, f"{one['metadata']['name']} has another template"
        return True
