"""A HorizontalPodAutoscaler scales up under load and down after it."""

from __future__ import annotations

import time

import pytest

from e2e.kube import Kube, until
from e2e.load import Load
from e2e.steps import endpoint, example, nothing_lost, serving, tell

pytestmark = pytest.mark.timing


def test_an_autoscaler_scales_up_and_down(kube: Kube) -> None:
    try:
        kube.kubectl("top", "nodes")
    except RuntimeError:
        pytest.skip("this cluster has no metrics-server")
    serving(kube)
    manifest = example(kube, "autoscaling")
    manifest["spec"]["autoscaling"]["maxReplicas"] = 2
    began = time.monotonic()
    with Load(endpoint(kube), streams=4) as load:
        load.wait_for(4)
        kube.apply(manifest)
        kube.wait_complete(2)
        load.wait_for(4)
    kube.wait_complete(1)
    tell("HorizontalPodAutoscaler 1 -> 2 -> 1", load.report, time.monotonic() - began)
    nothing_lost(load.report)
    kube.patch({"autoscaling": None})
    until("no autoscaler", lambda: not kube.get("hpa")["items"], 30)
