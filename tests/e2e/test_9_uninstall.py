"""helm upgrade and uninstall with a serving deployment: nothing hangs, and nothing is left unless it should be."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import yaml

from e2e.kube import NAMESPACE, Kube, until
from e2e.steps import example, install, nothing_lost, serving, under_load, upgrade
from fixtures.kube_tools import ROOT

CRD = "llmdeployments.gllm.dev"


def left(kube: Kube) -> list[str]:
    everywhere = kube.kubectl("get", "crd,clusterrole,clusterrolebinding", "-o", "name").splitlines()
    found = [name for name in everywhere if "gllm" in name]
    kinds = "all,sa,secret,cm,pdb,netpol,controllerrevisions,leases,role,rolebinding,hpa"
    for namespace in ("default", NAMESPACE):
        names = kube.kubectl("get", kinds, "-n", namespace, "-o", "name").splitlines()
        found += [name for name in names if "gllm" in name or "smol" in name]
    return found


def uninstall(kube: Kube) -> None:
    began = time.monotonic()
    kube.helm("uninstall", "gllm", "-n", NAMESPACE, "--wait", "--timeout", "5m")
    print(f"\n  helm uninstall: {time.monotonic() - began:.0f} s", flush=True)


def test_a_rendered_chart_deletes_nothing(kube: Kube) -> None:
    """Hooks that are applied like other objects: the Job runs, and finds that helm uninstalls nothing."""
    serving(kube)
    repository, _, tag = kube.cluster.operator.rpartition(":")
    values = ("--set", f"image.repository={repository},image.tag={tag}", "--kube-version", "1.34.0")
    text = kube.helm("template", "gllm", "charts/gllm", "-n", NAMESPACE, *values)
    hooks = [one for one in yaml.safe_load_all(text) if one and "-uninstall" in one["metadata"]["name"]]
    assert "Job" in {one["kind"] for one in hooks}
    for one in hooks:
        kube.apply(one)
    kube.kubectl("wait", "--for=condition=complete", "job/gllm-uninstall", "-n", NAMESPACE, "--timeout=60s", seconds=90)
    assert "does nothing" in kube.kubectl("logs", "job/gllm-uninstall", "-n", NAMESPACE)
    assert "deletionTimestamp" not in kube.get("llm", "smol")["metadata"]
    assert kube.complete(1)
    for one in hooks:
        namespace = ("-n", one["metadata"]["namespace"]) if "namespace" in one["metadata"] else ()
        kube.kubectl("delete", one["kind"], one["metadata"]["name"], *namespace)


def test_a_second_release_stands_back_and_takes_nothing_along(kube: Kube) -> None:
    serving(kube)
    repository, _, tag = kube.cluster.operator.rpartition(":")
    values = f"image.repository={repository},image.tag={tag},crds.install=false,watchNamespaces={{default}}"
    release = ("gllm", "-n", "second")
    kube.helm("install", release[0], "charts/gllm", *release[1:], "--create-namespace", "--set", values, "--wait")

    def stands_back() -> bool:
        return any(one["reason"] == "StandsBack" for one in kube.events())

    until("the second operator stands back", stands_back, 60, kube.describe)
    assert kube.status()["operator"] == f"{NAMESPACE}/gllm"
    before = [group["name"] for group in kube.status()["groups"]]
    kube.helm("uninstall", *release, "--wait", "--timeout", "2m")
    kube.kubectl("delete", "namespace", "second", "--wait=false")
    assert kube.get("crd", CRD)
    assert [group["name"] for group in kube.wait_complete(1)["groups"]] == before


def test_uninstall_leaves_nothing(kube: Kube) -> None:
    serving(kube)
    uninstall(kube)
    until("nothing left", lambda: not left(kube), 60, lambda: str(left(kube)))


def test_the_crd_is_upgraded(kube: Kube, tmp_path: Path) -> None:
    """The upgrade starts from a chart whose CRD lacks `monitoring`."""
    chart = tmp_path / "gllm"
    shutil.copytree(ROOT / "charts/gllm", chart)
    file = chart / "files/llmdeployments.yaml"
    older = yaml.safe_load(file.read_text())
    for version in older["spec"]["versions"]:
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["monitoring"]
    file.write_text(yaml.safe_dump(older))
    install(kube, chart)
    assert "monitoring" not in _spec_fields(kube)
    upgrade(kube)
    assert "monitoring" in _spec_fields(kube)
    uninstall(kube)


def _spec_fields(kube: Kube) -> list[str]:
    version = kube.get("crd", CRD)["spec"]["versions"][0]
    return list(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])


def test_one_namespace_and_deployments_that_stay(kube: Kube) -> None:
    """An operator with rights in one namespace works there. With crds.keep, deployments continue to serve."""
    install(kube, more=("watchNamespaces={default}", "watchNodes=false", "crds.keep=true"))
    account = f"--as=system:serviceaccount:{NAMESPACE}:gllm"

    def may(verb: str, kind: str, namespace: str) -> bool:
        try:
            return kube.kubectl("auth", "can-i", verb, kind, "-n", namespace, account).strip() == "yes"
        except RuntimeError:  # "no" is exit status 1.
            return False

    assert may("create", "statefulsets.apps", "default")
    assert not may("create", "statefulsets.apps", "kube-system")
    assert not may("create", "pods", "default")
    assert not may("get", "secrets", "default")
    assert not may("list", "nodes", "default")
    kube.apply(example(kube))
    kube.wait_complete(1)
    with under_load(kube, "helm uninstall with crds.keep=true") as load:
        uninstall(kube)
        load.wait_for(load.streams)
    nothing_lost(load.report)
    assert kube.get("llm", "smol")["metadata"].get("finalizers", []) == []
    # Without an operator no deletion hangs, and the objects are deleted with their owner.
    kube.kubectl("delete", "llm", "smol", "--timeout=30s", seconds=60)
    kube.kubectl("delete", "crd", CRD, "--timeout=30s", seconds=60)
    until("nothing left", lambda: not left(kube), 90, lambda: str(left(kube)))
