"""The chart: it lints, its pods are restricted, and the operator has only the rights that it uses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fixtures.kube_tools import ROOT, tool
from gllm_operator.crd.definition import crd
from gllm_operator.kube.api import PLURALS
from gllm_operator.kube.cache import WATCHED
from gllm_operator.process.operator_process import _OPTIONAL_KINDS

HELM = tool("helm")
CHART = ROOT / "charts/gllm"
NAMESPACED = ("--set", "watchNamespaces={a,b}")
MONITORED = ("--api-versions", "monitoring.coreos.com/v1")

pytestmark = pytest.mark.skipif(HELM is None, reason="no helm on the PATH or in ../shared/k8s")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def render(*arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "gllm", str(CHART), "--namespace", "serving", "--kube-version", "1.34.0", *arguments)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in objects:
        if one["kind"] == "Pod":
            yield one["spec"]
        elif "template" in one.get("spec", {}):
            yield one["spec"]["template"]["spec"]


def rights(objects: list[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """The operator's verbs by (API group, resource)."""
    found: dict[tuple[str, str], set[str]] = {}
    for role in of_kind(objects, "ClusterRole") + of_kind(objects, "Role"):
        if role["metadata"]["name"] not in ("gllm", "gllm-lease"):
            continue
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_the_chart_lints() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout
    assert "ERROR" not in done.stdout


@pytest.mark.parametrize("extra", [(), NAMESPACED, ("--set", "replicas=2"), ("--set", "crds.keep=true"), MONITORED])
def test_every_pod_is_restricted(extra: tuple[str, ...]) -> None:
    found = list(pods(render(*extra)))
    assert len(found) == 3  # The operator, the uninstall Job and the test.
    for spec in found:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec.get("volumes", []):
            assert "emptyDir" in volume
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_the_operator_has_the_rights_that_it_uses() -> None:
    found = rights(render())
    watched = {*WATCHED, *_OPTIONAL_KINDS.items()}
    for api_version, kind in watched:
        group = api_version.rpartition("/")[0]
        verbs = found.pop((group, PLURALS[api_version, kind]))
        want = {"get", "list", "watch", "delete"} | ({"create", "patch"} if kind != "Pod" else set())
        assert verbs == want, kind
    assert found == {
        ("gllm.dev", "llmdeployments"): {"get", "list", "watch", "patch"},
        ("gllm.dev", "llmdeployments/status"): {"patch"},
        ("gllm.dev", "llmdeployments/finalizers"): {"update"},
        ("", "secrets"): {"create"},
        ("", "events"): {"create", "list", "watch"},
        ("coordination.k8s.io", "leases"): {"get", "patch"},
    }


def test_no_wildcards_anywhere() -> None:
    for extra in ((), NAMESPACED, ("--set", "crds.keep=true")):
        for role in of_kind(objects := render(*extra), "ClusterRole") + of_kind(objects, "Role"):
            for rule in role["rules"]:
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_namespaces_limit_the_rights() -> None:
    objects = render(*NAMESPACED)
    assert {role["metadata"]["name"] for role in of_kind(objects, "ClusterRole")} == {"gllm-view", "gllm-edit"}
    assert of_kind(objects, "ClusterRoleBinding") == []
    places = {role["metadata"]["namespace"] for role in of_kind(objects, "Role") if role["metadata"]["name"] == "gllm"}
    assert places == {"a", "b"}
    (operator,) = of_kind(objects, "Deployment")
    env = {one["name"]: one["value"] for one in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["GLLM_OPERATOR_NAMESPACES"] == "a,b"


def test_the_operator_reads_every_variable_of_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    from gllm_operator.process.settings import read_settings

    (operator,) = of_kind(render("--set", "runtimeImage=r/gllm:1", "--set", "operator.leaseSeconds=20"), "Deployment")
    env = {one["name"]: one["value"] for one in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    settings = read_settings([], env)
    assert (settings.default_image, settings.lease_namespace, settings.lease_name) == ("r/gllm:1", "serving", "gllm")
    assert (settings.lease_seconds, settings.http_port) == (20.0, 8080)
    plain = read_settings([], {})
    known = {"GLLM_OPERATOR_" + name.upper() for name in vars(plain)}
    assert set(env) - {"USER"} <= known


def test_the_chart_has_the_crd_of_the_tree() -> None:
    (found,) = of_kind(render(), "CustomResourceDefinition")
    assert found == crd()
    (kept,) = of_kind(render("--set", "crds.keep=true"), "CustomResourceDefinition")
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == crd()
    assert of_kind(render("--set", "crds.install=false"), "CustomResourceDefinition") == []


def test_the_chart_creates_the_lease() -> None:
    (lease,) = of_kind(render(), "Lease")
    assert lease["metadata"]["name"] == "gllm"


def test_the_service_monitor_needs_its_api() -> None:
    assert of_kind(render(), "ServiceMonitor") == []
    assert len(of_kind(render(*MONITORED), "ServiceMonitor")) == 1
    assert of_kind(render(*MONITORED, "--set", "metrics.serviceMonitor.enabled=false"), "ServiceMonitor") == []


def test_the_uninstall_hook_runs_before_the_operator_is_removed() -> None:
    (job,) = of_kind(render(), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments == ["--namespaces=", "--timeout=240"]
    (keeping,) = of_kind(render("--set", "crds.keep=true"), "Job")
    arguments = keeping["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[2:] == ["--keep", "--operator=serving/gllm"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nonsense=1", "nonsense"),
        ("replicas=many", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:1", "digest"),
        ("operator.logLevel=loud", "logLevel"),
        ("watchNamespaces={Upper}", "watchNamespaces"),
        ("crds.kept=true", "kept"),
    ],
)
def test_bad_values_are_refused(value: str, words: str) -> None:
    done = helm("template", "gllm", str(CHART), "--kube-version", "1.34.0", "--set", value)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_digest_takes_precedence_over_the_tag() -> None:
    sha = "sha256:" + "a" * 64
    (operator,) = of_kind(render("--set", f"image.digest={sha}", "--set", "image.tag=x"), "Deployment")
    assert operator["spec"]["template"]["spec"]["containers"][0]["image"] == f"gllm-operator@{sha}"
