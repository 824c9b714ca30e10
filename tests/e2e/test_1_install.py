"""An empty cluster: helm install, kubectl apply, the first answer."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import yaml
from openai import OpenAI

from e2e.kube import NAMESPACE, Kube, until
from e2e.steps import endpoint, example, install, serving
from fixtures.kube_tools import ROOT


def test_install_apply_answer(kube: Kube) -> None:
    began = time.monotonic()
    install(kube)
    installed = time.monotonic()
    if kube.cluster.runtime == example(kube)["spec"]["image"] == "gllm:dev":
        kube.kubectl("apply", "-f", str(ROOT / "examples/smol.yaml"))
    else:
        kube.apply(example(kube))
    kube.wait_complete(1)
    ready = time.monotonic()
    client = OpenAI(base_url=endpoint(kube), api_key="none", timeout=60)
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=30,
    )
    text = answer.choices[0].message.content or ""
    print(f"\n  helm install {installed - began:.0f} s, apply to Ready {ready - installed:.0f} s, answer: {text!r}")
    assert "Paris" in text
    assert client.models.list().data[0].id == "smollm2"


def test_a_client_inside_the_cluster(kube: Kube) -> None:
    """The client uses the Service's name, in a namespace that accepts only restricted pods."""
    serving(kube)
    job = yaml.safe_load((ROOT / "examples/ask.yaml").read_text())
    job["spec"]["template"]["spec"]["containers"][0]["image"] = kube.cluster.runtime
    kube.kubectl("delete", "job", "ask", "--ignore-not-found")
    kube.apply(job)
    kube.kubectl("wait", "--for=condition=complete", "job/ask", "--timeout=90s", seconds=120)
    text = kube.kubectl("logs", "job/ask")
    print(f"\n  from http://smol.default.svc/v1, inside: {text.strip()!r}")
    assert "Paris" in text
    kube.kubectl("delete", "job", "ask")


def test_helm_test(kube: Kube) -> None:
    install(kube)
    kube.helm("test", "gllm", "-n", NAMESPACE, "--timeout", "2m")


def test_pods_are_as_rendered(kube: Kube) -> None:
    """Pods equal the output of `gllm render`, and the environment in their containers agrees."""
    serving(kube)
    done = subprocess.run(
        [sys.executable, "-m", "gllm.apps.cli.main", "render", "-f", "examples/smol.yaml"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    sets = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "StatefulSet"]
    assert len(sets) == 2
    for rendered in sets:
        name = f"{rendered['metadata']['name']}-{rendered['spec'].get('ordinals', {}).get('start', 0)}"
        if kube.cluster.runtime != "gllm:dev":
            continue
        pod = kube.get("pod", name)
        _contains(pod["spec"], rendered["spec"]["template"]["spec"])
        _check_inside(kube, name, rendered["spec"]["template"]["spec"]["containers"][0]["env"])


def _contains(found: Any, wanted: Any, path: str = "spec") -> None:
    """Every expected field is present; the API server adds defaults."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            assert key in found, f"{path}.{key}"
            _contains(found[key], value, f"{path}.{key}")
    elif isinstance(wanted, list):
        for number, value in enumerate(wanted):
            if isinstance(value, dict) and "name" in value:
                same = [one for one in found if one.get("name") == value["name"]]
                assert same, f"{path}: no {value['name']}"
                _contains(same[0], value, f"{path}[{value['name']}]")
            elif path.endswith(("volumeMounts", "tolerations", "topologySpreadConstraints")):
                assert any(value.items() <= one.items() for one in found), f"{path}: no {value}"
            else:
                _contains(found[number], value, f"{path}[{number}]")
    else:
        assert found == wanted, f"{path} is {found}, not {wanted}"


def _check_inside(kube: Kube, pod: str, env: list[dict[str, Any]]) -> None:
    script = (
        "import os, json; mounts = [line.split() for line in open('/proc/mounts')]; "
        "print(json.dumps({'env': dict(os.environ), 'uid': os.getuid(), "
        "'shm': [m[2] for m in mounts if m[1] == '/dev/shm'], "
        "'root': [m[3].split(',')[0] for m in mounts if m[1] == '/'], "
        "'token': os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token')}))"
    )
    inside = yaml.safe_load(kube.kubectl("exec", pod, "--", "python3", "-c", script))
    for variable in env:
        if "value" in variable:
            assert inside["env"][variable["name"]] == variable["value"]
        else:
            assert inside["env"][variable["name"]]
    assert inside["env"]["NODE_RANK"] == pod.rpartition("-")[2]
    assert inside["env"]["POD_NAME"] == pod
    assert inside["uid"] == 10001
    assert inside["shm"][-1] == "tmpfs"
    assert inside["root"] == ["ro"]
    assert inside["token"] is False


def test_the_status_has_the_loading_progress(kube: Kube) -> None:
    """Pods get a quarter of a core, so that loading takes long enough to observe."""
    install(kube)
    manifest = example(kube)
    manifest["metadata"]["name"] = "slow"
    manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "250m"
    kube.apply(manifest)
    try:
        seen: dict[int, str] = {}
        deadline = time.monotonic() + 240
        while not kube.complete(1, "slow"):
            assert time.monotonic() < deadline, kube.describe("slow")
            status = kube.status("slow")
            for group in status.get("groups", []):
                if "loadPercent" in group:
                    seen[group["loadPercent"]] = kube.condition("Ready", "slow").get("message", "")
            time.sleep(0.5)
        print(f"\n  seen while it loaded: {', '.join(f'{percent} %' for percent in seen)}")
        assert list(seen) == sorted(seen)
        assert any(0 < percent < 100 for percent in seen)
        assert any("% of the weights loaded" in message for message in seen.values())
        assert "loadPercent" not in kube.status("slow")["groups"][0]
    finally:
        kube.kubectl("delete", "llm", "slow", "--wait=false")
    until("it is gone", lambda: not kube.pods("slow"), 120, lambda: kube.describe("slow"))
