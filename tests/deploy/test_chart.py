"""The chart: it lints, its pods are restricted, and the operator has only the rights that it uses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
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


def render(*arguments: str, chart: Path = CHART) -> list[dict[str, Any]]:
    done = helm("template", "gllm", str(chart), "--namespace", "serving", "--kube-version", "1.34.0", *arguments)
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
        if role["metadata"]["name"] not in ("serving-gllm", "serving-gllm-nodes", "gllm", "gllm-lease"):
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
        want = {"get", "list", "watch", "delete"} | ({"create", "patch"} if kind != "Pod" else {"patch"})
        assert verbs == want, kind
    assert found == {
        ("gllm.dev", "llmdeployments"): {"get", "list", "watch", "patch"},
        ("gllm.dev", "llmdeployments/status"): {"patch"},
        ("gllm.dev", "llmdeployments/finalizers"): {"update"},
        ("", "secrets"): {"create"},
        ("", "nodes"): {"list", "watch"},
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
    assert {role["metadata"]["name"] for role in of_kind(objects, "ClusterRole")} == {
        "serving-gllm-view",
        "serving-gllm-edit",
        "serving-gllm-nodes",
        "serving-gllm-uninstall-crd",
    }
    bound = {one["roleRef"]["name"] for one in of_kind(objects, "ClusterRoleBinding")}
    assert bound == {"serving-gllm-nodes", "serving-gllm-uninstall-crd"}
    blind = of_kind(render(*NAMESPACED, "--set", "watchNodes=false"), "ClusterRoleBinding")
    assert [one["roleRef"]["name"] for one in blind] == ["serving-gllm-uninstall-crd"]
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
    assert settings.drain_taints == plain.drain_taints
    known = {"GLLM_OPERATOR_" + name.upper() for name in vars(plain)}
    assert set(env) - {"USER"} <= known


@pytest.mark.parametrize("keep", ["true", "false"])
def test_the_chart_has_the_crd_of_the_tree_and_helm_never_deletes_it(keep: str) -> None:
    (found,) = of_kind(render("--set", f"crds.keep={keep}"), "CustomResourceDefinition")
    assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert found == crd()
    assert of_kind(render("--set", "crds.install=false"), "CustomResourceDefinition") == []


def test_the_files_of_the_chart_are_current() -> None:
    """`make generate` copies them. They are no links, which helm mentions at every command."""
    for name, source in (
        ("values.yaml", CHART / "values.yaml"),
        ("llmdeployments.yaml", ROOT / "crds/llmdeployments.yaml"),
    ):
        copy = CHART / "files" / name
        assert not copy.is_symlink()
        assert copy.read_text() == source.read_text()


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("resources", "labels"):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key


def test_values_of_an_older_chart_suffice() -> None:
    """`helm upgrade --reuse-values` brings no key that the chart has gained since. Null removes a key."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    inner, outer = set(leaves(values)) - {"image.repository"}, set(values) - {"image"}
    assert {"dashboard.enabled", "metrics.serviceMonitor.interval", "replicas"} <= inner
    wanted = render()
    for names in (inner, outer):
        assert render(*(part for name in sorted(names) for part in ("--set", f"{name}=null"))) == wanted


def test_the_values_of_the_chart_of_7552eb9_suffice(tmp_path: Path) -> None:
    """Exactly those: where the chart's own defaults would fill in what they lack, the old ones are put."""
    older = ROOT / "tests/fixtures/older_chart/values.yaml"
    values = yaml.safe_load(older.read_text())
    assert set(leaves(yaml.safe_load((CHART / "values.yaml").read_text()))) - set(leaves(values)) >= {
        "watchNodes",
        "operator.drainTaints",
    }
    chart = shutil.copytree(CHART, tmp_path / "gllm")
    shutil.copyfile(older, chart / "values.yaml")
    # Its one other default, which such an upgrade keeps.
    assert render(chart=chart) == render("--set", "networkPolicy.enabled=false")


def test_a_user_may_remove_keys_of_maps_that_are_the_users() -> None:
    (operator,) = of_kind(render("--set", "resources.limits=null"), "Deployment")
    assert "limits" not in operator["spec"]["template"]["spec"]["containers"][0]["resources"]
    found = of_kind(render("--set", "dashboard.labels.grafana_dashboard=null"), "ConfigMap")
    assert "grafana_dashboard" not in found[0]["metadata"]["labels"]


def test_values_that_are_false_stay_false() -> None:
    objects = render("--set", "networkPolicy.enabled=false,dashboard.enabled=false,uninstall.enabled=false,replicas=0")
    assert {"NetworkPolicy", "ConfigMap", "Job"}.isdisjoint(one["kind"] for one in objects)
    assert of_kind(objects, "Deployment")[0]["spec"]["replicas"] == 0


def test_two_releases_share_no_object() -> None:
    """The same name in another namespace, and another name in the same one."""

    def names(namespace: str, release: str) -> set[tuple[str, ...]]:
        done = helm(
            "template", release, str(CHART), "-n", namespace, "--kube-version", "1.34.0", "--set", "crds.install=false"
        )
        found = [one for one in yaml.safe_load_all(done.stdout) if one]
        assert len(found) > 10
        return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in found}

    first = names("serving", "gllm")
    assert first.isdisjoint(names("other", "gllm"))
    assert first.isdisjoint(names("serving", "gllm2"))


NOTES = {
    ("true", "true", "true"): "keeps the CRD and all LLMDeployments",
    ("true", "true", "false"): "The CRD goes too, if no other LLMDeployment is left",
    ("true", "false", "false"): "The CRD, which is not of this release, stays",
    ("false", "true", "false"): "removes the operator only",
    ("false", "true", "true"): "removes the operator only",
}


@pytest.mark.parametrize("case", NOTES)
def test_the_notes_say_what_uninstall_does(case: tuple[str, str, str], tmp_path: Path) -> None:
    enabled, install, keep = case
    settings = f"uninstall.enabled={enabled},crds.install={install},crds.keep={keep}"
    # `helm template` does not render notes, so they become the template of an object.
    chart = shutil.copytree(CHART, tmp_path / "gllm")
    notes = (chart / "templates/NOTES.txt").read_text()
    text = f'{{{{- define "notes" }}}}{notes}{{{{ end }}}}\nkind: Notes\ntext: {{{{ include "notes" . | quote }}}}\n'
    (chart / "templates/notes.yaml").write_text(text)
    (found,) = of_kind(render("--set", settings, chart=chart), "Notes")
    assert [text for text in set(NOTES.values()) if text in found["text"]] == [NOTES[case]]
    jobs = of_kind(render("--set", settings), "Job")
    arguments = jobs[0]["spec"]["template"]["spec"]["containers"][0]["args"] if jobs else []
    assert bool(jobs) == (enabled == "true")
    if jobs:
        assert ("--keep" in arguments, "--crd" in arguments) == (keep == "true", install == "true" and keep == "false")


def test_the_chart_creates_the_lease() -> None:
    (lease,) = of_kind(render(), "Lease")
    assert lease["metadata"]["name"] == "gllm"
    assert "spec" not in lease, "the holder's fields are no drift"


def test_the_service_monitor_needs_its_api() -> None:
    assert of_kind(render(), "ServiceMonitor") == []
    assert len(of_kind(render(*MONITORED), "ServiceMonitor")) == 1
    assert of_kind(render(*MONITORED, "--set", "metrics.serviceMonitor.enabled=false"), "ServiceMonitor") == []


def test_the_uninstall_hook_runs_before_the_operator_is_removed() -> None:
    (job,) = of_kind(render(), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    own = ["--release=serving/gllm", "--operator=serving/gllm", "--namespaces=", "--timeout=240"]
    assert arguments == [*own, "--crd"]
    (keeping,) = of_kind(render("--set", "crds.keep=true"), "Job")
    arguments = keeping["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments == [*own, "--keep"]
    (operator,) = of_kind(render(), "Deployment")
    env = {one["name"]: one.get("value") for one in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert f"{env['GLLM_OPERATOR_LEASE_NAMESPACE']}/{env['GLLM_OPERATOR_LEASE_NAME']}" == "serving/gllm", "its mark"


def test_the_job_may_read_only_the_records_of_helm() -> None:
    """It needs no rights on pods or StatefulSets: the operator removes them."""
    deletes = {("customresourcedefinitions", "get"), ("customresourcedefinitions", "delete")}
    keeps = {("poddisruptionbudgets", "patch"), ("deployments", "get"), ("deployments", "patch")}
    for extra, own in (((), deletes), (NAMESPACED, deletes), (("--set", "crds.keep=true"), keeps)):
        objects = render(*extra)
        roles = [one for one in of_kind(objects, "Role") + of_kind(objects, "ClusterRole") if "uninstall" in str(one)]
        found = {
            (resource, verb)
            for role in roles
            if "-uninstall" in role["metadata"]["name"]
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert found == own | {
            *(("llmdeployments", verb) for verb in ("get", "list", "patch", "delete")),
            ("secrets", "list"),
            ("configmaps", "list"),
        }


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
