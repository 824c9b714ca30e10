"""Steps that several tests share: install, find the endpoint, restore the deployment, print the figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from e2e.kube import NAMESPACE, OPERATOR, Kube, Object, until
from e2e.load import EACH, Load, Report
from fixtures.kube_tools import ROOT


def install(kube: Kube, chart: Path = ROOT / "charts/gllm", more: Sequence[str] = ()) -> None:
    """Install the chart into namespaces that accept only restricted pods. more: values for `--set`."""
    if "gllm" in kube.helm("list", "-n", NAMESPACE, "-q").split():
        return
    for namespace in (NAMESPACE, "default"):
        if namespace not in kube.kubectl("get", "namespaces", "-o", "name"):
            kube.kubectl("create", "namespace", namespace)
        kube.kubectl("label", "--overwrite", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    repository, _, tag = kube.cluster.operator.rpartition(":")
    values = ",".join([f"image.repository={repository}", f"image.tag={tag}", *more])
    kube.helm("install", "gllm", str(chart), "-n", NAMESPACE, "--set", values, "--wait", "--timeout", "3m")


def example(kube: Kube, name: str = "smol") -> Object:
    found: Object = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    found["spec"]["image"] = kube.cluster.runtime
    return found


def serving(kube: Kube, groups: int = 1, **more: Any) -> None:
    """Restore the deployment of examples/smol.yaml, whatever an earlier test has left, and wait until it serves.

    more: fields of the spec. Without groups gateways are not waited for: they are ready when a group has served once.
    """
    install(kube)
    manifest = example(kube)
    manifest["spec"] |= {"replicas": groups, **more}
    kube.apply(manifest)
    if groups:
        kube.wait_complete(groups)
    else:
        until("no groups", lambda: not kube.pods(), 120, kube.describe)
    gateways = more.get("gateway")
    if gateways and groups:
        ready = f"{gateways['replicas']}/{gateways['replicas']}"
        until("the gateways", lambda: kube.status().get("gateways") == ready, 120, kube.describe)
        behind = {"gllm.dev/gateway": "smol"}
        until("their Service", lambda: kube.get("service", "smol")["spec"]["selector"] == behind, 30, kube.describe)


def endpoint(kube: Kube, name: str = "smol") -> str:
    """The base URL from this machine: the Service itself, or a node port."""
    service = kube.get("service", name)["spec"]
    direct = f"http://{service['clusterIP']}:{service['ports'][0]['port']}"
    if _answers(direct):
        return direct + "/v1"
    if service["type"] == "ClusterIP":
        kube.patch({"server": {"serviceType": "NodePort"}}, name)
        until("a node port", lambda: kube.get("service", name)["spec"]["type"] == "NodePort", 30)
        service = kube.get("service", name)["spec"]
    for node in kube.get("nodes")["items"]:
        for address in node["status"]["addresses"]:
            url = f"http://{address['address']}:{service['ports'][0]['nodePort']}"
            if address["type"] in ("InternalIP", "ExternalIP") and _answers(url):
                return url + "/v1"
    raise AssertionError("neither the Service's address nor a port of a node can be reached from this machine")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def operators(kube: Kube) -> list[str]:
    """Names of the operator's running pods."""
    found = kube.get("pods", "-n", NAMESPACE, "-l", OPERATOR)["items"]
    return [one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]]


def leaders(kube: Kube) -> list[str]:
    return [name for name in operators(kube) if kube.metric(name, "gllm_operator_leads ") == 1]


def upgrade(kube: Kube, *values: str) -> None:
    """Upgrade to the chart of this tree. values: arguments of `--set`."""
    given = [part for value in values for part in ("--set", value)]
    kube.helm("upgrade", "gllm", "charts/gllm", "-n", NAMESPACE, "--reuse-values", *given, "--wait", "--timeout", "2m")


def set_operators(kube: Kube, count: int) -> None:
    upgrade(kube, f"replicas={count}")
    until(f"{count} operators", lambda: len(operators(kube)) == count, 60)


def kill(kube: Kube, *operators: str) -> None:
    """Delete operator pods without a grace period."""
    kube.kubectl("delete", "pods", *operators, "-n", NAMESPACE, "--grace-period=0", "--force")


def rolling(kube: Kube) -> bool:
    """Whether one group has become several, as during a rollout."""
    return len(kube.status()["groups"]) > 1


@contextmanager
def under_load(kube: Kube, what: str, streams: int = 6, max_tokens: int = 60) -> Iterator[Load]:
    """Keep streams of every kind of client running before, during and after the block, and print the figures."""
    began = time.monotonic()
    with Load(endpoint(kube), streams, max_tokens, clients=EACH) as load:
        load.wait_for(streams)
        yield load
        load.wait_for(streams)
    tell(what, load.report, time.monotonic() - began)


def tell(what: str, report: Report, seconds: float) -> None:
    print(f"\n  {what} ({seconds:.0f} s): {report.line()}", flush=True)


def nothing_lost(report: Report) -> None:
    assert report.lost == 0, report.line()
    assert report.differing == 0, report.line()
