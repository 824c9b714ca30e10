"""Optional kinds of objects and nodes: KEDA, Prometheus' operator, GPUs, RDMA."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from e2e.kube import NAMESPACE, Kube, Object, until
from e2e.steps import example, serving, upgrade

CRDS = (
    ("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
)
"""Their CRDs without controllers: the test checks the objects, not their effect."""


def definition(group: str, version: str, kind: str, plural: str) -> Object:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def test_optional_apis_are_installed_and_removed(kube: Kube) -> None:
    """The operator notices them while it runs."""
    serving(kube)
    existing = kube.kubectl("get", "crd", "-o", "name")
    if any(f"{plural}.{group}" in existing for group, _, _, plural in CRDS):
        pytest.skip("this cluster has KEDA or Prometheus' operator itself")
    trigger = {
        "type": "cron",
        "metadata": {"timezone": "Etc/UTC", "start": "0 6 * * *", "end": "0 20 * * *", "desiredReplicas": "2"},
    }
    kube.patch(
        {"autoscaling": {"minReplicas": 1, "maxReplicas": 2, "triggers": [trigger]}, "monitoring": {"podMonitor": True}}
    )
    for one in CRDS:
        kube.apply(definition(*one))
    try:
        began = time.monotonic()
        scaled: Object = until("a ScaledObject", lambda: kube.get("scaledobjects", "smol"), 150, kube.describe)
        print(f"\n  the operator found the new APIs after {time.monotonic() - began:.0f} s", flush=True)
        assert scaled["spec"]["scaleTargetRef"] == {
            "apiVersion": "gllm.dev/v1alpha1",
            "kind": "LLMDeployment",
            "name": "smol",
        }
        assert scaled["spec"]["triggers"] == [trigger]
        monitor = until("a PodMonitor", lambda: kube.get("podmonitors", "smol"), 30, kube.describe)
        assert monitor["spec"]["selector"]["matchLabels"]["gllm.dev/deployment"] == "smol"
        upgrade(kube, "metrics.serviceMonitor.enabled=true")
        assert kube.get("servicemonitors", "gllm", "-n", NAMESPACE)["spec"]["endpoints"][0]["path"] == "/metrics"
        kube.patch({"autoscaling": None, "monitoring": None})
        until("no ScaledObject", lambda: not kube.get("scaledobjects")["items"], 60, kube.describe)
        until("no PodMonitor", lambda: not kube.get("podmonitors")["items"], 60, kube.describe)
        upgrade(kube, "metrics.serviceMonitor.enabled=false")  # helm cannot delete objects whose CRD is gone.
    finally:
        for group, _, _, plural in CRDS:
            kube.kubectl("delete", "crd", f"{plural}.{group}", "--ignore-not-found")
    upgrade(kube, "metrics.serviceMonitor.enabled=true")
    kube.kubectl("scale", "llm", "smol", "--replicas=2")
    kube.wait_complete(2)
    kube.kubectl("scale", "llm", "smol", "--replicas=1")
    kube.wait_complete(1)


def test_pods_request_gpus(kube: Kube) -> None:
    """Pods get the GPUs of the spec, or the status says what is missing. The nodes only advertise GPUs, so no
    model runs, and the status says why."""
    free = {
        node["metadata"]["name"]: int(node["status"]["allocatable"].get("nvidia.com/gpu", 0))
        for node in kube.get("nodes")["items"]
    }
    if max(free.values()) < 4:
        pytest.skip("no node has four GPUs")
    serving(kube)
    manifest = example(kube)
    manifest["metadata"]["name"] = "gpus"
    manifest["spec"] |= {
        "parallelism": {"pipeline": 2, "tensor": 3},
        "accelerator": {"type": "cuda", "perPod": 3},
        "engine": {},
    }
    kube.apply(manifest)
    try:
        pods = until("two pods on nodes", lambda: _placed(kube, 2), 60, lambda: kube.describe("gpus"))
        for pod in pods:
            limits = pod["spec"]["containers"][0]["resources"]["limits"]
            assert limits["nvidia.com/gpu"] == "3"
        failure: Any = until("the reason in the status", lambda: _failure(kube), 90, lambda: kube.describe("gpus"))
        print(f"\n  a pod without a real GPU: {failure}", flush=True)
        assert "cuda" in failure["message"].lower()
        assert failure["pod"].startswith("gpus-")
        assert "gpus-" in kube.condition("Ready", "gpus")["message"]
        # More than any node has.
        kube.patch({"parallelism": {"pipeline": 1, "tensor": 9}, "accelerator": {"perPod": 9}}, "gpus")
        until(
            "what is missing",
            lambda: "Insufficient nvidia.com/gpu" in str(kube.status("gpus")),
            60,
            lambda: kube.describe("gpus"),
        )
        # An impossible spec is refused at admission, with the fix.
        with pytest.raises(RuntimeError, match="perPod"):
            kube.patch({"parallelism": {"pipeline": 2, "tensor": 4}, "accelerator": {"perPod": 3}}, "gpus")
    finally:
        kube.kubectl("delete", "llm", "gpus", "--wait=false")
    until("it is gone", lambda: not kube.pods("gpus"), 120, lambda: kube.describe("gpus"))


def test_rdma_reaches_the_pods(kube: Kube) -> None:
    """Serving pods have the interface, the adapter and the device plugin's resource. The nodes only advertise
    adapters, so NCCL does not use them here."""
    if kube.cluster.kind != "shared":
        pytest.skip("this cluster's nodes are not ours to change")
    serving(kube)
    nodes = [node["metadata"]["name"] for node in kube.get("nodes")["items"]]
    _set_adapters(kube, nodes, "8")
    # Only the standard privileged allows IPC_LOCK.
    kube.kubectl("label", "--overwrite", "namespace", "default", "pod-security.kubernetes.io/enforce=privileged")
    try:
        kube.patch(
            {
                "network": {
                    "interface": "eth0",
                    "debug": "INFO",
                    "extraEnv": [{"name": "NCCL_IB_TIMEOUT", "value": "22"}],
                    "rdma": {"resourceName": "rdma/hca", "hca": "mlx5_0", "gidIndex": 3},
                },
                "security": {"profile": "Baseline"},
            }
        )
        kube.wait_complete(1)
        script = "import json, os; print(json.dumps(dict(os.environ)))"
        for pod in kube.pods():
            limits = pod["spec"]["containers"][0]["resources"]["limits"]
            assert limits["rdma/hca"] == "1"
            inside = json.loads(kube.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", script))
            wanted = {
                "NCCL_SOCKET_IFNAME": "eth0",
                "GLOO_SOCKET_IFNAME": "eth0",
                "NCCL_DEBUG": "INFO",
                "NCCL_IB_HCA": "mlx5_0",
                "NCCL_IB_GID_INDEX": "3",
                "NCCL_IB_TIMEOUT": "22",
            }
            assert wanted.items() <= inside.items()
            assert "NCCL_IB_DISABLE" not in inside
    finally:
        kube.patch({"network": None, "security": None})
        kube.kubectl("label", "--overwrite", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
        kube.wait_complete(1)
        _set_adapters(kube, nodes, None)


def _set_adapters(kube: Kube, nodes: list[str], count: str | None) -> None:
    for node in nodes:
        body = json.dumps({"status": {"capacity": {"rdma/hca": count}, "allocatable": {"rdma/hca": count}}})
        kube.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", body)


def _placed(kube: Kube, count: int) -> list[Object] | None:
    pods = [pod for pod in kube.pods("gpus") if pod["spec"].get("nodeName")]
    return pods if len(pods) == count else None


def _failure(kube: Kube) -> Object | None:
    return next(
        (
            one["lastFailure"]
            for one in kube.status("gpus").get("groups", [])
            if "cuda" in str(one.get("lastFailure")).lower()
        ),
        None,
    )
