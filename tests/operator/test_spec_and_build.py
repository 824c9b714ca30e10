"""Pure functions of spec/, build/ and plan/validate.py, and the parsers of masters' answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fixtures.ports import free_port
from gllm.models.config import ModelConfig, RopeConfig
from gllm.wire.curve import parse_keys
from gllm_operator.api import LLMDeploymentSpec
from gllm_operator.build.env import is_reserved
from gllm_operator.build.model_source import model_files, served_name
from gllm_operator.build.overlay import overlay
from gllm_operator.build.singletons import make_keys
from gllm_operator.build.tracing import tracing_egress
from gllm_operator.controller.masters import Answers, ask_masters, parse_loaded, parse_requests
from gllm_operator.names import GroupId
from gllm_operator.objects import parse_quantity
from gllm_operator.plan.validate import problems
from gllm_operator.spec.estimate import estimate
from gllm_operator.spec.parallel_config import parallel_config
from gllm_operator.spec.revision import pod_source, record_of, revision_of, source_of


def spec(**changes: Any) -> LLMDeploymentSpec:
    base = {"model": {"source": "file:///models/x"}, "image": "gllm:1"}
    return msgspec.convert(base | changes, LLMDeploymentSpec)


def model(**changes: Any) -> ModelConfig:
    base: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position": 8192,
        "rms_norm_eps": 1e-5,
        "rope": RopeConfig(),
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    return ModelConfig(**(base | changes))


@pytest.mark.parametrize(
    ("base", "patch", "result"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"a": 1, "b": 2}, {"b": None}, {"a": 1}),
        (
            {"containers": [{"name": "gllm", "args": ["x"]}]},
            {"containers": [{"name": "gllm", "tty": True}]},
            {"containers": [{"name": "gllm", "args": ["x"], "tty": True}]},
        ),
        (
            {"containers": [{"name": "gllm"}]},
            {"containers": [{"name": "log", "image": "i"}]},
            {"containers": [{"name": "gllm"}, {"name": "log", "image": "i"}]},
        ),
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
            {"env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]},
        ),
        (
            {"env": [{"name": "A", "valueFrom": {}}]},
            {"env": [{"name": "A", "value": "3"}]},
            {"env": [{"name": "A", "value": "3"}]},
        ),
        (
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            {"volumes": [{"name": "v", "$patch": "delete"}]},
            {"volumes": []},
        ),
        (
            {"volumeMounts": [{"name": "a", "mountPath": "/x"}]},
            {"volumeMounts": [{"name": "b", "mountPath": "/x"}]},
            {"volumeMounts": [{"name": "b", "mountPath": "/x"}]},
        ),
        (
            {"tolerations": [{"key": "a"}]},
            {"tolerations": [{"key": "b"}]},
            {"tolerations": [{"key": "a"}, {"key": "b"}]},
        ),
        ({"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
        ({}, {"x": {"y": None, "z": 1}}, {"x": {"z": 1}}),
    ],
)
def test_overlay(base: Any, patch: Any, result: Any) -> None:
    assert overlay(base, patch) == result


@pytest.mark.parametrize(
    ("source", "path", "name"),
    [
        ("file:///models/x", "/models/x", "x"),
        ("file:///models/x.gguf", "/models/x.gguf", "x.gguf"),
        ("pvc://claim/a/b", "/models/a/b", "b"),
        ("pvc://claim", "/models", "claim"),
        ("hf://org/name", "/models/org/name/main", "name"),
        ("oci://registry/image:1#a/b", "/models/a/b", "b"),
        ("oci://registry/image:1", "/models", "image"),
        ("oci://registry/image@sha256:12", "/models", "image"),
    ],
)
def test_model_sources(source: str, path: str, name: str) -> None:
    found = spec(model={"source": source}).model
    assert (model_files(found).path, served_name(found)) == (path, name)


def test_parallel_config() -> None:
    shape = parallel_config(spec(parallelism={"pipeline": 4, "tensor": 2}).parallelism, spec().accelerator)
    assert (shape.world, shape.pods, shape.per_pod, shape.summary) == (8, 4, 2, "PP4xTP2")
    with pytest.raises(ValueError, match="do not fill pods of 2"):
        parallel_config(spec(parallelism={"pipeline": 3}).parallelism, spec(accelerator={"perPod": 2}).accelerator)


def test_a_revision_depends_only_on_fields_that_change_pods() -> None:
    def revision(**changes: Any) -> str:
        return revision_of(pod_source(spec(**changes), "smol", "default:1"))

    same: list[dict[str, Any]] = [
        {"replicas": 3},
        {"rollout": {"paused": True}},
        {"server": {"servicePort": 81}},
        {"suspend": True},
        {"engine": {"policy": "balanced"}},
    ]
    other: list[dict[str, Any]] = [
        {"image": "gllm:2"},
        {"parallelism": {"pipeline": 2}},
        {"engine": {"maxNumSeqs": 1}},
        {"server": {"port": 81}},
        {"template": {"spec": {"nodeSelector": {"a": "b"}}}},
        {"network": {"debug": "INFO"}},
    ]
    assert {revision(**changes) for changes in same} == {revision()}
    assert len({revision(**changes) for changes in other} | {revision()}) == len(other) + 1


def test_a_revision_is_restored_from_its_record() -> None:
    source = pod_source(spec(parallelism={"pipeline": 2}, template={"spec": {"x": [1]}}), "smol", "")
    again = source_of(msgspec.json.decode(msgspec.json.encode(record_of(source))))
    assert again == source
    assert revision_of(again) == revision_of(source)


def test_the_longest_name_of_a_set_fits() -> None:
    longest = GroupId(255, "k7b2f", 999).set_name("a" * 36, "master")
    assert len(longest) <= 52  # The StatefulSet controller appends a hash, and labels have at most 63 characters.


def test_the_runtime_parses_the_keys() -> None:
    keys = parse_keys(make_keys(), "here")
    assert keys.server_public != keys.client_public
    assert len(keys.server_public) == 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "spec.image is not set"),
        ({"engine": {"extraArgs": ["--tp=4"]}}, "--tp, which other fields"),
        ({"engine": {"extraArgs": ["--tensor-parallel-size", "4"]}}, "--tensor-parallel-size, which other fields"),
        ({"engine": {"extraArgs": ["--tensor_parallel_size=4"]}}, "--tensor_parallel_size, which other fields"),
        ({"engine": {"extraArgs": ["-tp=4"]}}, "-tp, which other fields"),
        ({"engine": {"extraArgs": ["--enable-expert-parallel"]}}, "--enable-expert-parallel, which other fields"),
        ({"engine": {"extraArgs": ["--watchdog-timeout=4"]}}, "--watchdog-timeout, which other fields"),
        ({"engine": {"extraArgs": ["--model", "/other"]}}, "--model, which other fields"),
        ({"template": {"containers": []}}, "does not belong there"),
        ({"template": {"spec": {"containers": [{"args": []}]}}}, "needs a name"),
        ({"template": {"spec": {"containers": [{"name": "gllm", "env": [{"name": "NODE_RANK"}]}]}}}, "derives from"),
        ({"template": {"spec": {"containers": [{"name": "gllm", "args": ["x"]}]}}}, "use engine.extraArgs"),
        ({"slave": {"spec": {"containers": [{"name": "gllm", "$patch": "delete"}]}}}, "leave it in"),
        ({"master": {"spec": {"containers": [{"name": "typo"}]}}}, "has no image"),
        ({"template": {"spec": {"hostNetwork": True}}}, "hostNetwork"),
        ({"parallelism": {"pipeline": 3}, "accelerator": {"perPod": 2}}, "do not fill pods"),
        ({"parallelism": {"tensor": 4, "expert": 3}}, "does not divide"),
        ({"rollout": {"maxSurge": 0}}, "both 0"),
        ({"network": {"rdma": {}}}, "Baseline"),
        ({"autoscaling": {"maxReplicas": 1}}, "either metrics or triggers"),
    ],
)
def test_problems_name_the_fix(changes: dict[str, Any], words: str) -> None:
    found = spec(**changes)
    (problem,) = problems(found, "smol", found.image or "", None)
    assert words in problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallelism": {"pipeline": 33}}, "parallelism.pipeline 33 is more than the model's 32 layers"),
        ({"parallelism": {"tensor": 3}}, "does not divide the model's 32 attention heads"),
        ({"parallelism": {"tensor": 2, "expert": 2}}, "has none"),
        ({"accelerator": {"memory": "16Gi"}}, "does not fit"),
        ({"accelerator": {"memory": "24Gi"}, "model": {"source": "file:///x", "maxModelLen": 1000000}}, "maxModelLen"),
    ],
)
def test_a_known_model_is_checked_against_the_spec(changes: dict[str, Any], words: str) -> None:
    (problem,) = problems(spec(**changes), "smol", "gllm:1", model())
    assert words in problem


def test_estimate() -> None:
    given = spec(accelerator={"memory": "80Gi"})
    fit = estimate(given, parallel_config(given.parallelism, given.accelerator), model())
    assert fit.fits == "Yes"
    assert fit.weights_per_rank is not None
    assert abs(fit.weights_per_rank / 2 - 8.03e9) / 8.03e9 < 0.01  # Llama 3.1 8B
    assert fit.kv_tokens is not None
    assert 350_000 < fit.kv_tokens < 450_000  # 128 KiB a token
    assert estimate(given, parallel_config(given.parallelism, given.accelerator), None).fits == "Unknown"


def test_quantities() -> None:
    assert [parse_quantity(text) for text in ("80Gi", "1.5G", "12", "2Ki")] == [80 * 2**30, 1_500_000_000, 12, 2048]
    with pytest.raises(ValueError, match="80Gi"):
        parse_quantity("many")


def test_requests_are_read_from_metrics() -> None:
    text = 'gllm:num_requests_running{model_name="m",engine="0"} 3.0\ngllm:num_requests_waiting{engine="0"} 2.0\nx 9\n'
    assert parse_requests(text) == 5
    assert parse_requests("nothing") is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ('{"status": "unavailable", "reason": "starting", "loaded": 0.42}', 0.42),
        ('{"status": "unavailable", "reason": "starting"}', None),
        ('{"loaded": 7}', 1.0),
        ('{"loaded": "much"}', None),
        ('{"loaded": null}', None),
        ("[1]", None),
        ("<html>", None),
    ],
)
def test_loading_progress_is_read_from_ready(text: str, share: float | None) -> None:
    assert parse_loaded(text) == share


def test_masters_are_asked_over_http() -> None:
    async def ask() -> Answers:
        app = web.Application()
        app.router.add_get("/metrics", _answer("gllm:num_requests_running 3\n", 200))
        app.router.add_get("/ready", _answer('{"loaded": 0.25}', 503))
        async with TestServer(app) as server:
            assert server.port is not None
            master, unreachable = ("127.0.0.1", server.port), ("127.0.0.1", free_port())
            return await ask_masters({"old": master, "gone": unreachable}, {"new": master, "gone": unreachable})

    assert asyncio.run(ask()) == Answers(in_flight={"old": 3}, loaded={"new": 0.25})


def _answer(text: str, status: int) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return handle


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://c:4318", 4318), ("https://otlp.example/x/v1/traces", 443), ("http://[fd00::1]", 80)],
)
def test_the_network_policy_allows_the_collector(endpoint: str, port: int) -> None:
    tracing = spec(monitoring={"tracing": {"endpoint": endpoint}}).monitoring.tracing
    assert tracing_egress(tracing) == [{"ports": [{"protocol": "TCP", "port": port}]}]
    assert tracing_egress(None) == []


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://c:4317", "http://c:x", "http://c?x=1", "http://"])
def test_a_collector_has_an_http_url(endpoint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="endpoint"):
        spec(monitoring={"tracing": {"endpoint": endpoint}})


def test_rank_variables_are_reserved() -> None:
    assert is_reserved("NODE_RANK")
    assert not is_reserved("NCCL_ALGO")
