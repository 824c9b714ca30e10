"""spec.gateway: gateways in front of two groups; no stream is lost, not even with a master that is killed."""

from __future__ import annotations

import pytest

from e2e.kube import Kube, until
from e2e.steps import example, install, nothing_lost, under_load

pytestmark = pytest.mark.timing


def test_no_stream_is_lost_with_a_master(kube: Kube) -> None:
    install(kube)
    manifest = example(kube)
    manifest["spec"] |= {"replicas": 2, "gateway": {"replicas": 2}}
    kube.apply(manifest)
    until("the gateways", lambda: kube.status().get("gateways") == "2/2", 240, kube.describe)
    kube.wait_complete(2)
    assert kube.get("service", "smol")["spec"]["selector"] == {"gllm.dev/gateway": "smol"}
    with under_load(kube, "master pod deleted by force, 2 groups behind gateways", streams=3, max_tokens=40) as load:
        master = kube.pods(role="master")[0]["metadata"]["name"]
        kube.kubectl("delete", "pod", master, "--grace-period=0", "--force")
        load.wait_for(2 * load.streams)
    nothing_lost(load.report)
    with under_load(kube, "a rollout behind gateways", streams=3, max_tokens=40) as load:
        kube.patch({"engine": {"maxNumSeqs": 8}})
        kube.wait_complete(2)
    nothing_lost(load.report)
