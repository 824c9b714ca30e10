"""Golden files: the objects that the operator renders for typical manifests.

After a change that is meant: UPDATE_GOLDEN=1 pytest tests/operator/test_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from gllm_operator.build.group import group_sets
from gllm_operator.build.integrations import OPTIONAL_APIS
from gllm_operator.build.rendering import render, stored
from gllm_operator.controller.observe import observe
from gllm_operator.local.manifest import objects_of, read_deployments, to_yaml, without_owner
from gllm_operator.names import GroupId
from gllm_operator.spec.revision import pod_source

_FOLDER = Path(__file__).parent / "golden"
_APIS = frozenset(OPTIONAL_APIS)
CASES = sorted(path.name.removesuffix(".in.yaml") for path in _FOLDER.glob("*.in.yaml"))


def rendered(case: str) -> list[dict[str, Any]]:
    (deployment,) = read_deployments(str(_FOLDER / f"{case}.in.yaml"))
    return [without_owner(one) for one in objects_of(deployment, keys="KEYS", apis=_APIS)]


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    text, file = to_yaml(rendered(case)), _FOLDER / f"{case}.out.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), "UPDATE_GOLDEN=1 if this is meant"


@pytest.mark.parametrize("case", [case for case in CASES if case != "rdma"])
def test_pods_meet_the_restricted_standard(case: str) -> None:
    for one in rendered(case):
        if one["kind"] == "StatefulSet":
            check_restricted(one["spec"]["template"]["spec"])


def check_restricted(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {"name", "emptyDir", "persistentVolumeClaim", "secret", "configMap", "projected", "image"}
    assert all(set(volume) <= allowed for volume in pod["volumes"])
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("case", CASES)
def test_rendered_yaml_is_parsed_again(case: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(to_yaml(rendered(case)))]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES)
def test_a_stored_rendering_gives_what_was_rendered(case: str) -> None:
    """For any group: nothing of the placeholder is left, and every field that depends on the group has its value."""
    (deployment,) = read_deployments(str(_FOLDER / f"{case}.in.yaml"))
    observed = observe(deployment, [], applied={}, refused={})
    assert observed.spec is not None
    source = pod_source(observed.spec, observed.owner.name, "gllm:1")
    rendering = render(observed.owner, source)
    again = stored(json.loads(json.dumps(rendering.data())))
    assert again.revision == rendering.revision
    for group in (GroupId(0, rendering.revision, 1), GroupId(12, "k7b2f", 345)):
        assert again.sets_of(observed.owner, group) == group_sets(observed.owner, source, group)


def test_the_record_of_another_version_stays_as_it_is() -> None:
    """The API server refuses changed data of a ControllerRevision; here the other version had another default."""
    (deployment,) = read_deployments(str(_FOLDER / "cpu.in.yaml"))
    observed = observe(deployment, [], applied={}, refused={})
    assert observed.spec is not None
    written = render(observed.owner, pod_source(observed.spec, observed.owner.name, "gllm:1")).data()
    theirs = json.loads(json.dumps(written))
    theirs["source"]["engine"] = {"policy": "balanced"}
    assert stored(theirs).data() == theirs
