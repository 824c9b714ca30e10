"""Every rule of the CRD on a real API server: valid specs are accepted, and refusals name the fix."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.operator_harness import deployment
from gllm_operator.kube.api import ApiError

GOOD: list[dict[str, Any]] = [
    {},
    {"parallelism": {"pipeline": 4, "tensor": 8, "expert": 8}, "accelerator": {"perPod": 8}},
    {"parallelism": {"pipeline": 4, "tensor": 2}, "accelerator": {"perPod": 4}},
    {"model": {"source": "hf://org/name", "revision": "main", "cacheClaim": "cache"}},
    {"model": {"source": "pvc://claim/path"}},
    {"model": {"source": "oci://registry/image:1#models/x"}},
    {"rollout": {"maxSurge": 0, "maxUnavailable": 1}},
    {"network": {"rdma": {"hca": "mlx5_0"}}, "security": {"profile": "Baseline"}},
    {"network": {"extraEnv": [{"name": "NCCL_ALGO", "value": "Ring"}]}},
    {"autoscaling": {"maxReplicas": 3, "metrics": [{"type": "Resource"}]}},
    {"autoscaling": {"minReplicas": 0, "maxReplicas": 3, "triggers": [{"type": "prometheus"}]}},
    {"replicas": 0, "suspend": True},
    {"engine": {"extraArgs": ["--ppx", "--seed=1", "--trace", "/tmp/--pp"]}},
    {"disruption": {"waitForRoomSeconds": 0}},
    {"template": {"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "gllm"}]}}},
]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"parallelism": {"pipeline": 3}, "accelerator": {"perPod": 2}}, "ranks have to fill whole pods"),
    ({"parallelism": {"tensor": 4}, "accelerator": {"perPod": 2}}, "the ranks of a stage share a pod"),
    ({"parallelism": {"tensor": 4, "expert": 3}, "accelerator": {}}, "must divide parallelism.tensor"),
    ({"parallelism": {"pipeline": 0}}, "greater than or equal to 1"),
    ({"model": {"source": "http://x/y"}}, "should match"),
    ({"model": {}}, "Required value"),
    ({"model": {"source": "file:///m", "revision": "main"}}, "belongs to hf:// sources only"),
    ({"model": {"source": "pvc://c/m", "cacheClaim": "x"}}, "use a pvc:// source"),
    ({"model": {"source": "file:///m", "tokenSecretRef": {"name": "a", "key": "b"}}}, "belongs to hf:// sources"),
    ({"model": {"source": "file:///m", "servedNames": ["a", "b"]}}, "must have at most 1 item"),
    ({"rollout": {"maxSurge": 0, "maxUnavailable": 0}}, "raise one of them"),
    ({"rollout": {"minReadySeconds": 60, "progressDeadlineSeconds": 60}}, "must be more than"),
    ({"recovery": {"backoffSeconds": 60, "backoffMaxSeconds": 30}}, "must not be more than"),
    ({"network": {"rdma": {}}}, "set security.profile to Baseline"),
    ({"network": {"extraEnv": [{"name": "PATH"}]}}, "put others into spec.template"),
    ({"network": {"masterPort": 8000}}, "choose another"),
    ({"autoscaling": {"maxReplicas": 3}}, "give one"),
    ({"autoscaling": {"maxReplicas": 3, "metrics": [{}], "triggers": [{}]}}, "give one"),
    ({"autoscaling": {"minReplicas": 4, "maxReplicas": 3, "metrics": [{}]}}, "must not be more than maxReplicas"),
    ({"autoscaling": {"minReplicas": 0, "maxReplicas": 3, "metrics": [{}]}}, "needs KEDA triggers"),
    ({"autoscaling": {"maxReplicas": 3, "metrics": [{}]}, "suspend": True}, "remove one of them"),
    ({"replicas": 1000}, "less than or equal to 256"),
    ({"accelerator": {"type": "tpu"}}, "Unsupported value"),
    ({"engine": {"pageSize": 3}}, "Unsupported value"),
    ({"parallellism": {}}, "unknown field"),
    ({"image": ""}, 'spec.image: Invalid value: "object": image is empty: name an image'),
    ({"engine": {"extraArgs": ["--max-num-seqs", "4", "--pp", "4"]}}, "spec.engine: Invalid value"),
    ({"engine": {"extraArgs": ["--tensor-parallel-size=4"]}}, "such as --pp, --port or --api-key: remove it"),
    ({"gateway": {"extraArgs": ["--port=80"]}}, "spec.gateway: Invalid value"),
]


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_valid_specs_are_accepted(spec: dict[str, Any], namespace: str, talk: Any) -> None:
    assert talk(lambda api: _create(api, namespace, spec))["metadata"]["uid"]


@pytest.mark.parametrize(("spec", "words"), BAD, ids=str)
def test_invalid_specs_are_refused_with_the_fix(spec: dict[str, Any], words: str, namespace: str, talk: Any) -> None:
    with pytest.raises(ApiError) as caught:
        talk(lambda api: _create(api, namespace, spec))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("name", "words"), [("a" * 37, "at most 36"), ("1abc", "begin with a letter"), ("a.b", "begin with a letter")]
)
def test_names(name: str, words: str, namespace: str, talk: Any) -> None:
    with pytest.raises(ApiError) as caught:
        talk(lambda api: _create(api, namespace, {}, name))
    assert words in caught.value.message
    assert "metadata.name: Invalid value" in caught.value.message


def test_scale_is_a_subresource_over_masters(namespace: str, talk: Any) -> None:
    async def work(api: Any) -> Any:
        await _create(api, namespace, {})
        path = f"/apis/gllm.dev/v1alpha1/namespaces/{namespace}/llmdeployments/smol/scale"
        body = {"spec": {"replicas": 3}}
        return await api._call("PATCH", path, body, "application/merge-patch+json")

    assert talk(work)["spec"]["replicas"] == 3


async def _create(api: Any, namespace: str, changes: dict[str, Any], name: str = "smol") -> Any:
    body = deployment(name=name)
    body["metadata"]["namespace"] = namespace
    del body["metadata"]["generation"]
    body["spec"] = {"model": {"source": "file:///models/x"}, "image": "gllm:1"} | changes
    path = f"/apis/gllm.dev/v1alpha1/namespaces/{namespace}/llmdeployments"
    return await api._call("POST", path, body, query={"fieldValidation": "Strict"})
