"""`gllm render`, and the processes that `gllm run` starts."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gllm.apps.cli.main import app
from gllm_operator.local.kubelet import LocalPod
from gllm_operator.local.manifest import objects_of, read_deployments
from gllm_operator.local.pod_processes import front_of, host_paths, loopback, processes_of, translate
from gllm_operator.local.run import prepare
from gllm_operator.local.table import PodTable

_EXAMPLE = str(Path(__file__).parents[2] / "examples" / "smol.yaml")


def example() -> dict[str, Any]:
    (found,) = read_deployments(_EXAMPLE)
    return found


def test_processes_have_the_arguments_and_environment_of_pods() -> None:
    objects = objects_of(example(), keys="KEYS")
    master, slave = processes_of(objects, {"/models/smollm2": "/here"})
    assert (master.role, slave.role, master.rank, slave.rank) == ("master", "slave", 0, 1)
    for process, role in ((master, "master"), (slave, "slave")):
        (one,) = [
            one
            for one in objects
            if one["kind"] == "StatefulSet" and one["metadata"]["labels"]["gllm.dev/role"] == role
        ]
        (container,) = one["spec"]["template"]["spec"]["containers"]
        rendered = ["/here" if part == "/models/smollm2" else part for part in container["args"]]
        assert list(process.arguments) == rendered
        # There are no mounts here, so the text of a Secret takes the place of its file.
        wanted = {variable["name"] for variable in container["env"]} - {"GLLM_KEYS_FILE"} | {"GLLM_KEYS"}
        assert set(process.env) == wanted
        local = {"MASTER_ADDR": loopback(0), "GLLM_DRAIN_DELAY": "0"}
        plain = {one["name"]: one["value"] for one in container["env"] if "value" in one} | local
        del plain["GLLM_KEYS_FILE"]
        assert plain.items() <= process.env.items()
        assert process.env["NODE_RANK"] == str(process.rank)
        assert process.env["GLLM_NODE_ADDR"] == process.address == loopback(process.rank)
        assert process.env["GLLM_KEYS"] == "KEYS"
        assert process.env["POD_NAME"] == process.name
    assert (master.ready_path, master.port) == ("/ready?recovering=true", 8000)


def test_variables_may_refer_to_earlier_ones() -> None:
    deployment = example()
    deployment["spec"] |= {"monitoring": {"tracing": {"endpoint": "http://c:4318"}}, "gateway": {}}
    for process in processes_of(objects_of(deployment, keys="KEYS"), {"/models/smollm2": "/here"}):
        named = f"k8s.namespace.name=default,k8s.pod.name={process.name}"
        assert process.env["OTEL_RESOURCE_ATTRIBUTES"] == named
        assert "http://c:4318" in process.arguments


def test_a_gateway_gets_an_address_of_its_own() -> None:
    deployment = example()
    deployment["spec"] |= {"gateway": {"replicas": 2, "enginePort": 29700}}
    processes = processes_of(objects_of(deployment, keys="KEYS"), {"/models/smollm2": "/here"})
    master, slave, gateway = processes
    assert (master.role, slave.role, gateway.role) == ("master", "slave", "gateway")
    assert front_of(processes) == gateway
    assert front_of(processes[:1]) == master
    assert (master.url, gateway.url) == ("http://127.0.1.1:8000", "http://127.0.0.1:8000")
    flags = {process.role: dict(itertools.pairwise(process.arguments)) for process in processes}
    assert flags["master"]["--host"] == "127.0.1.1"
    assert flags["gateway"]["--host"] == "127.0.0.1"
    assert flags["gateway"]["--engines"] == "127.0.1.1:29700"
    assert gateway.arguments[:2] == ("gateway", "/here")
    assert gateway.env["GLLM_KEYS"] == master.env["GLLM_KEYS"] == "KEYS"
    assert gateway.ready_path == "/ready?recovering=true"


def test_container_paths_are_translated_by_mounts() -> None:
    mounts = {"/models": "/a", "/models/deep": "/b"}
    assert translate("/models/x", mounts) == "/a/x"
    assert translate("/models/deep/x", mounts) == "/b/x"
    assert translate("/modelsx", mounts) == "/modelsx"
    deployment = example()
    deployment["spec"]["template"] = {
        "spec": {
            "volumes": [{"name": "m", "hostPath": {"path": "/srv/models"}}],
            "containers": [{"name": "gllm", "volumeMounts": [{"name": "m", "mountPath": "/models"}]}],
        }
    }
    assert host_paths(objects_of(deployment, keys="")) == {"/models": "/srv/models"}


def test_a_missing_model_is_an_error_that_names_the_flag() -> None:
    deployment = example()
    deployment["spec"]["model"] = {"source": "file:///models/other"}
    with pytest.raises(ValueError, match="--mount /models/other=PATH"):
        prepare(deployment, {}, io.StringIO())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("kind: Pod", "has no LLMDeployment"),
        ("{kind: LLMDeployment, apiVersion: x/v1, metadata: {name: a}}", "apiVersion is x/v1"),
        ("{kind: LLMDeployment, apiVersion: gllm.dev/v1alpha1}", "metadata.name is missing"),
        ("{kind: LLMDeployment, apiVersion: gllm.dev/v1alpha1, metadata: {name: a}, spec: {modle: {}}}", "modle"),
        (
            "{kind: LLMDeployment, apiVersion: gllm.dev/v1alpha1, metadata: {name: a}, "
            "spec: {model: {source: 'file:///x'}, parallelism: {tensor: 4, expert: 3}}}",
            "does not divide",
        ),
    ],
)
def test_errors_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["render", "-f", str(file)])
    assert result.exit_code == 1
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_render_prints_every_object() -> None:
    result = CliRunner().invoke(app, ["render", "-f", _EXAMPLE, "-n", "models"])
    assert result.exit_code == 0
    assert "smol-0-" in result.output
    assert ".smol-pods.models.svc" in result.output
    kinds = {line.removeprefix("kind: ") for line in result.output.splitlines() if line.startswith("kind: ")}
    assert kinds == {
        "Secret",
        "Service",
        "ServiceAccount",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "StatefulSet",
        "ControllerRevision",
    }


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table_of_pods_shortens_only_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    spec = processes_of(objects_of(example(), keys="KEYS"), {})[0]
    pod = LocalPod(spec, lambda pod: None)
    pod.state, pod.last_line = "Ready", "[bold] " + "long " * 60
    with PodTable(out, spec) as table:
        table.show([pod])
    text = out.getvalue()
    assert spec.name in text
    assert spec.address in text
    assert "[bold] long long" in text
    assert "serves at http://127.0.0.1:8000/v1" in text
