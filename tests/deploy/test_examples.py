"""Every LLMDeployment in examples/ and in the docs is valid, and renders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from fixtures.kube_tools import ROOT
from gllm_operator.api import LLMDeploymentSpec
from gllm_operator.build.group import group_sets
from gllm_operator.names import GroupId, Owner
from gllm_operator.plan.validate import problems
from gllm_operator.spec.revision import pod_source, revision_of

EXAMPLES = sorted(
    file for file in (ROOT / "examples").glob("*.yaml") if "kind: LLMDeployment" in file.read_text().splitlines()
)
SHAPES = {
    "smol": (2, 0),
    "autoscaling": (2, 0),
    "qwen2.5-32b": (2, 4),
    "llama3.1-70b-rdma": (4, 2),
    "qwen3-30b-a3b": (1, 4),
}
"""(pods of a group, GPUs of a pod) by file."""


def sets_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = msgspec.convert(manifest["spec"], LLMDeploymentSpec)
    name = manifest["metadata"]["name"]
    assert problems(spec, name, spec.image or "gllm:1", None) == []
    source = pod_source(spec, name, "gllm:1")
    return group_sets(Owner("default", name, "uid"), source, GroupId(0, revision_of(source), 1))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_render(file: Path) -> None:
    sets = sets_of(yaml.safe_load(file.read_text()))
    pods, gpus = SHAPES[file.stem]
    assert sum(one["spec"]["replicas"] for one in sets) == pods
    for one in sets:
        container = one["spec"]["template"]["spec"]["containers"][0]
        limits = container["resources"].get("limits", {})
        assert int(limits.get("nvidia.com/gpu", 0)) == gpus


def test_manifests_in_the_docs_render() -> None:
    found = 0
    for file in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```yaml\n(.*?)```", file.read_text(), re.DOTALL):
            for manifest in yaml.safe_load_all(block):
                if isinstance(manifest, dict) and manifest.get("kind") == "LLMDeployment":
                    assert sets_of(manifest), file
                    found += 1
    assert found


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_gllm_render_prints_an_example(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gllm.apps.cli.main", "render", "-f", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = {one["kind"] for one in yaml.safe_load_all(done.stdout) if one}
    assert {"StatefulSet", "Service", "PodDisruptionBudget"} <= kinds
