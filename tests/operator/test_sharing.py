"""spec.gateway.parent: the gateways of one LLMDeployment serve the models of others too."""

from __future__ import annotations

import asyncio
import copy
import io
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.operator_harness import SPEC, OperatorHarness, deployment
from gllm_operator.api.status import LLMDeploymentStatus, decode_status
from gllm_operator.controller.masters import Addresses
from gllm_operator.local.manifest import read_deployments
from gllm_operator.local.pod_processes import front_of
from gllm_operator.local.run import prepare
from gllm_operator.local.shared_gateway import find_models, parent_first
from gllm_operator.objects import Object, ObjectKey, timestamp

ONE = SPEC | {"parallelism": {"pipeline": 1}}
OWN = {"app.kubernetes.io/managed-by": "gllm-operator"}
SHARED = {"gateway.gllm.dev/other": "true"}


def child_spec(**changes: Any) -> dict[str, Any]:
    return ONE | {"model": {"source": "file:///models/other"}, "gateway": {"parent": "smol"}} | changes


class Pair(OperatorHarness):
    """smol has gateways, and other asks for them."""

    def __init__(self, child: dict[str, Any] | None = None, **parent: Any) -> None:
        super().__init__(ONE | {"gateway": {"replicas": 2}} | parent)
        self.idle: dict[str, tuple[float | None, ...]] = {}
        self.asked: dict[str, set[str]] = {}
        """The gateway pods that were asked for each model."""
        self.add("other", child or child_spec())

        async def ask_gateways(addresses: Addresses, model: str) -> tuple[float | None, ...]:
            self.asked[model] = set(addresses)
            return self.idle.get(model, ())

        self.reconciler.dependencies.ask_gateways = ask_gateways

    def add(self, name: str, spec: dict[str, Any]) -> None:
        made = deployment(spec, name)
        made["metadata"]["creationTimestamp"] = timestamp(self.now)
        self.api.put(made)
        self.now += 1

    def run_pass(self) -> float | None:
        """A pass of each deployment."""
        waits = [super().run_pass()]
        for one in self.api.of_kind("LLMDeployment"):
            self.reconciler.put(copy.deepcopy(one))
        for one in self.api.of_kind("LLMDeployment"):
            key = ObjectKey("default", one["metadata"]["name"])
            waits.append(asyncio.run(self.reconciler.reconcile(key)))
            self.reconciler.put(copy.deepcopy(self.of("LLMDeployment", key.name, "gllm.dev/v1alpha1")))
        return min((one for one in waits if one is not None), default=None)

    def passes(self, count: int = 12) -> None:
        self.world.eager = True
        for _ in range(count):
            self.run_pass()
            self.world.step()
            self.now += 1

    def of(self, kind: str, name: str, api_version: str) -> Object:
        return self.api.objects[api_version, kind, "default", name]

    def status_of(self, name: str) -> LLMDeploymentStatus:
        return decode_status(self.of("LLMDeployment", name, "gllm.dev/v1alpha1").get("status"))

    def integrated(self, name: str) -> str:
        found = [one for one in self.status_of(name).conditions if one.type == "Integrated"]
        return found[0].message if found else ""

    def selector(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.of("Service", name, "v1")["spec"]["selector"]
        return found

    def gateways(self) -> Object:
        (found,) = self.api.of_kind("Deployment")
        return found

    def args(self) -> list[str]:
        found: list[str] = self.gateways()["spec"]["template"]["spec"]["containers"][0]["args"]
        return found

    def gateway_pods(self) -> None:
        """What the Deployment controller and the kubelets do: pods of the newest template, all ready."""
        one = self.gateways()
        template = one["spec"]["template"]
        for old in self.api.of_kind("Pod"):
            if "gllm.dev/gateway" in old["metadata"]["labels"]:
                self.api.drop(old)
        for number in range(2):
            self.api.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"smol-gateway-{number}",
                        "namespace": "default",
                        "labels": template["metadata"]["labels"],
                    },
                    "spec": {"nodeName": "node-1", "containers": template["spec"]["containers"]},
                    "status": {"podIP": f"10.0.0.{number}", "conditions": [{"type": "Ready", "status": "True"}]},
                }
            )
        counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), 2)
        status = counts | {"observedGeneration": one["metadata"].get("generation")}
        self.api.edit(one, lambda found: found.update(status=status))


def also(pair: Pair) -> list[list[str]]:
    args = pair.args()
    return [shlex.split(args[at + 1]) for at, one in enumerate(args) if one == "--also"]


def test_the_gateways_serve_both_models() -> None:
    pair = Pair(
        child_spec(
            gateway={"parent": "smol", "waitSeconds": 30, "idleSeconds": 60, "extraArgs": ["--chat-template", "/a b"]}
        )
    )
    pair.idle = {"other": (0.0, 0.0)}
    pair.passes()
    (flags,) = also(pair)
    assert flags == [
        "/models/other",
        *("--engines", "other-engines.default.svc:29600", "--keys-file", "/run/secrets/gllm/link-keys-other/value"),
        *("--served-model-name", "other", "--engine-timeout", "30", "--wait-for-engine", "--chat-template", "/a b"),
    ]
    template = pair.gateways()["spec"]["template"]
    assert SHARED.items() <= template["metadata"]["labels"].items()
    assert SHARED.items() & pair.gateways()["spec"]["selector"]["matchLabels"].items() == set()
    secrets = {one["secret"]["secretName"] for one in template["spec"]["volumes"] if "secret" in one}
    assert secrets == {"smol-keys", "other-keys"}, "each model keeps its own keys"
    names = {one["metadata"]["name"] for one in pair.api.of_kind("Service")}
    assert names == {"smol", "smol-pods", "smol-engines", "other", "other-pods", "other-engines"}
    (engines,) = [
        one
        for one in pair.of("NetworkPolicy", "other", "networking.k8s.io/v1")["spec"]["ingress"]
        if "from" in one and one["from"][0]["podSelector"]["matchLabels"] == SHARED
    ]
    assert engines["ports"][0]["port"] == 29600
    egress = pair.of("NetworkPolicy", "smol-gateway", "networking.k8s.io/v1")["spec"]["egress"]
    assert [one["to"][0]["podSelector"]["matchLabels"]["gllm.dev/deployment"] for one in egress if "to" in one] == [
        "smol",
        "other",
    ]
    budgets = {one["metadata"]["name"] for one in pair.api.of_kind("PodDisruptionBudget")}
    assert budgets == {"smol", "smol-gateway", "other"}
    # No gateway pod serves it yet, so its groups do.
    assert pair.selector("other")["gllm.dev/role"] == "master"
    assert pair.status_of("other").gateways == "0/2"
    pair.gateway_pods()
    pair.passes(3)
    assert pair.selector("other") == SHARED
    assert pair.selector("smol") == {"gllm.dev/gateway": "smol"}
    assert pair.status_of("other").gateways == "2/2"
    assert pair.status_of("smol").endpoint is not None
    assert pair.status_of("smol").endpoint.models == ("tiny", "other")  # type: ignore[union-attr]
    assert pair.asked["other"] == {"smol-gateway-0", "smol-gateway-1"}
    assert pair.integrated("other") == ""


def test_each_model_wakes_by_its_own_requests() -> None:
    gateway = {"parent": "smol", "idleSeconds": 60}
    pair = Pair(child_spec(gateway=gateway), gateway={"replicas": 2, "idleSeconds": 60})
    pair.idle = {"tiny": (0.0, 0.0), "other": (0.0, 0.0)}
    pair.passes()
    pair.gateway_pods()
    pair.passes()
    pair.idle["other"] = (99.0, 70.0)
    pair.passes()
    assert (pair.status_of("smol").idle, pair.status_of("other").idle) == (False, True)
    assert {one["metadata"]["labels"]["gllm.dev/deployment"] for one in pair.sets()} == {"smol"}
    pair.idle = {"tiny": (99.0, 99.0), "other": (99.0, 0.0)}
    pair.passes()
    assert (pair.status_of("smol").idle, pair.status_of("other").idle) == (True, False)
    assert pair.selector("other") == SHARED, "the gateways stay for the others"


def test_a_rollout_of_a_child_waits_for_gateways_that_know_it() -> None:
    pair = Pair(child_spec(gateway=None))
    pair.passes()
    pair.gateway_pods()
    pair.passes(3)
    assert also(pair) == []
    child = pair.of("LLMDeployment", "other", "gllm.dev/v1alpha1")
    pair.api.edit(child, lambda one: one["spec"].update(gateway={"parent": "smol"}))
    pair.passes()
    assert len(also(pair)) == 1
    groups = [one.phase for one in pair.status_of("other").groups]
    assert groups == ["Ready", "Ready"], "the old group stays until gateways know the new one"
    pair.gateway_pods()
    pair.passes()
    assert len(pair.status_of("other").groups) == 1
    assert pair.selector("other") == SHARED


def test_a_child_that_leaves_or_is_deleted_is_forgotten() -> None:
    pair = Pair()
    pair.passes()
    pair.gateway_pods()
    pair.passes(3)
    child = pair.of("LLMDeployment", "other", "gllm.dev/v1alpha1")
    pair.api.edit(child, lambda one: one["spec"].pop("gateway"))
    pair.passes()
    assert also(pair) == []
    assert pair.selector("other")["gllm.dev/role"] == "master"
    names = {one["metadata"]["name"] for one in pair.api.of_kind("Service")}
    assert "other-engines" not in names
    child = pair.of("LLMDeployment", "other", "gllm.dev/v1alpha1")
    pair.api.edit(child, lambda one: one["spec"].update(gateway={"parent": "smol"}))
    pair.passes()
    assert len(also(pair)) == 1
    child = pair.of("LLMDeployment", "other", "gllm.dev/v1alpha1")
    pair.api.edit(child, lambda one: one["metadata"].update(deletionTimestamp=timestamp(pair.now)))
    pair.run_pass()
    assert also(pair) == []


@pytest.mark.parametrize(
    ("child", "parent", "said"),
    [
        (child_spec(gateway={"parent": "nobody"}), {}, "there is no LLMDeployment nobody"),
        (child_spec(), {"gateway": None}, "LLMDeployment smol has no gateways of its own"),
        (child_spec(gateway={"parent": "other"}), {}, "LLMDeployment other has no gateways of its own"),
        (child_spec(model=SPEC["model"]), {}, "the gateways serve 'tiny' of LLMDeployment smol already"),
        (child_spec(server={"apiKeySecretRef": {"name": "k", "key": "k"}}), {}, "the gateways have one API key"),
    ],
)
def test_what_cannot_be_shared_is_told_and_serves_by_itself(
    child: dict[str, Any], parent: dict[str, Any], said: str
) -> None:
    pair = Pair(child, **parent)
    pair.passes()
    assert said in pair.integrated("other")
    assert pair.status_of("other").reason == "NotShared"
    assert pair.status_of("other").ready == "1/1"
    assert pair.selector("other")["gllm.dev/role"] == "master"
    if pair.api.of_kind("Deployment"):
        assert also(pair) == [], "the parent's gateways are left alone"
    # A rollout does not wait for gateways that never come.
    pair.api.edit(
        pair.of("LLMDeployment", "other", "gllm.dev/v1alpha1"), lambda one: one["spec"].update(image="gllm:2")
    )
    pair.passes(25)
    assert [one.phase for one in pair.status_of("other").groups] == ["Ready"]


def test_the_older_deployment_keeps_a_name() -> None:
    pair = Pair()
    pair.add("another", child_spec(model={"source": "file:///models/x", "servedNames": ["other"]}))
    pair.passes()
    assert len(also(pair)) == 1
    assert "the gateways serve 'other' of LLMDeployment other already" in pair.integrated("another")
    assert pair.integrated("other") == ""


def test_changes_wake_the_other_side() -> None:
    pair = Pair()
    pair.passes()
    reconciler = pair.reconciler
    smol, other = ObjectKey("default", "smol"), ObjectKey("default", "other")

    def woken(action: Any) -> set[str]:
        for state in reconciler._states.values():
            state.wake.clear()
        action()
        return {key.name for key, state in reconciler._states.items() if state.wake.is_set()}

    assert woken(lambda: reconciler.wake(smol)) == {"smol", "other"}, "a gateway pod became ready"
    assert woken(lambda: reconciler.wake(other)) == {"other"}
    child = copy.deepcopy(pair.of("LLMDeployment", "other", "gllm.dev/v1alpha1"))
    child["spec"]["gateway"] = None
    child["metadata"] |= {"generation": 9, "resourceVersion": "999999"}
    assert woken(lambda: reconciler.put(child)) == {"smol", "other"}, "its former parent has to forget it"
    assert woken(lambda: reconciler.wake(smol)) == {"smol"}


@pytest.mark.parametrize("source", ["pvc://weights/a/b", "hf://org/other", "oci://registry/other#m"])
def test_files_of_each_model_have_their_own_place(source: str) -> None:
    pair = Pair(child_spec(model={"source": source}), model={"source": source + "x"})
    pair.passes()
    spec = pair.gateways()["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    volumes = [one["name"] for one in spec["volumes"]]
    assert len(set(volumes)) == len(volumes)
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    assert len(set(mounts)) == len(mounts)
    assert {one["name"] for one in container["volumeMounts"]} <= set(volumes)
    assert {"/models", "/models-other"} <= set(mounts)
    (flags,) = also(pair)
    assert flags[0].startswith("/models-other/")
    fetches = {one["name"]: one["args"] for one in spec.get("initContainers", [])}
    if source.startswith("hf://"):
        assert fetches["fetch-model-other"][:3] == ["fetch", source, flags[0]]
        assert set(fetches) == {"fetch-model", "fetch-model-other"}


def manifest(tmp_path: Path, *specs: tuple[str, dict[str, Any]]) -> str:
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump_all([deployment(spec, name) for name, spec in specs]))
    return str(file)


def test_a_manifest_with_both_runs_behind_one_gateway(tmp_path: Path) -> None:
    child = child_spec(gateway={"parent": "smol", "waitSeconds": 9})
    path = manifest(tmp_path, ("other", child), ("smol", ONE | {"gateway": {"replicas": 2}}))
    deployments = parent_first(read_deployments(path))
    mounts = {"/models/tiny": str(tmp_path), "/models/other": "/"}
    groups = {
        one["metadata"]["name"]: prepare(
            one, mounts, io.StringIO(), keys="KEYS", namespace=deployments, place=deployments.index(one)
        )
        for one in deployments
    }
    processes = find_models([one for found in groups.values() for one in found], groups)
    assert [(one.role, one.address) for one in processes] == [
        ("master", "127.0.1.1"),
        ("gateway", "127.0.0.1"),
        ("master", "127.0.2.1"),
    ]
    assert front_of(processes) == processes[1]
    arguments = processes[1].arguments
    (text,) = [arguments[at + 1] for at, one in enumerate(arguments) if one == "--also"]
    also = ["/", "--engines", "127.0.2.1:29600", "--served-model-name", "other", "--engine-timeout", "9"]
    assert shlex.split(text) == also
    assert {one.env["GLLM_KEYS"] for one in processes} == {"KEYS"}
    assert processes[2].arguments[processes[2].arguments.index("--host") + 1] == "127.0.2.1"


def test_a_manifest_whose_deployments_share_nothing_is_refused(tmp_path: Path) -> None:
    for specs in (
        [("a", ONE), ("b", ONE)],
        [("a", ONE), ("b", child_spec(gateway={"parent": "a"}))],
        [("b", child_spec())],
    ):
        with pytest.raises(ValueError, match="several LLMDeployments need one gateway"):
            parent_first(read_deployments(manifest(tmp_path, *specs)))


@pytest.mark.parametrize(
    ("gateway", "said"),
    [
        ({"parent": "smol", "extraArgs": ["--allowed-origins=*"]}, "--allowed-origins, which is not of one model"),
        ({"parent": "smol", "template": {"metadata": {"labels": {"a": "b"}}}}, "gateway.template is without effect"),
    ],
)
def test_settings_of_the_gateways_belong_to_the_parent(gateway: dict[str, Any], said: str) -> None:
    pair = Pair(child_spec(gateway=gateway))
    pair.passes(6)
    (valid,) = [one for one in pair.status_of("other").conditions if one.type == "SpecValid"]
    assert said in valid.message
    assert also(pair) == [], "it would not start with them"
