"""Models, version, tokenize, detokenize, metrics and the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import EOS, RunningServer, make_server, served_model
from prometheus_client.parser import text_string_to_metric_families

from gllm import __version__
from gllm.gateway.protocol.fields import HINTS
from gllm.gateway.shared.metrics import FinishedChoice, GatewayMetrics, length_buckets
from gllm.wire.messages import EngineStats, StageStats, TokenHistogram

LABELS = {"model_name": "tiny", "engine": "0"}


def test_models(client: openai.OpenAI, http: httpx.Client) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "gllm")
    assert client.models.retrieve("tiny").id == "tiny"
    card = http.get("/v1/models/tiny").json()
    assert (card["root"], card["parent"], card["max_model_len"]) == ("tiny", None, 512)
    assert (card["type"], card["display_name"]) == ("model", "tiny")
    assert datetime.fromisoformat(card["created_at"]).timestamp() == card["created"]
    (permission,) = card["permission"]
    assert (permission["object"], permission["allow_sampling"]) == ("model_permission", True)
    listed = http.get("/v1/models").json()
    assert listed == {"object": "list", "data": [card], "has_more": False, "first_id": "tiny", "last_id": "tiny"}


def test_a_model_with_several_names() -> None:
    with (
        make_server(model=served_model(aliases=("org/other", "third"))) as server,
        httpx.Client(base_url=server.url, timeout=10) as http,
    ):
        assert [card["id"] for card in http.get("/v1/models").json()["data"]] == ["tiny", "org/other", "third"]
        card = http.get("/v1/models/org/other").json()
        assert (card["id"], card["root"]) == ("org/other", "tiny")
        for name, status in (("tiny", 200), ("org/other", 200), ("third", 200), ("other", 404)):
            answer = http.post("/v1/completions", json={"model": name, "prompt": "a", "max_tokens": 1})
            assert answer.status_code == status
            assert status == 404 or answer.json()["model"] == "tiny"


def test_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": __version__}


def test_tokenize(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"prompt": "a b<eos>", "return_token_strs": True}).json()
    assert answer == {
        "tokens": [97, 32, 98, EOS],
        "count": 4,
        "max_model_len": 512,
        "token_strs": ["a", "\u0120", "b", "<eos>"],
    }
    chat = http.post("/tokenize", json={"messages": [{"role": "user", "content": "\u00e9"}]}).json()
    assert bytes(chat["tokens"]).decode() == "<user>\u00e9\n<assistant>"
    assert chat["token_strs"] is None
    text = http.post("/detokenize", json={"tokens": chat["tokens"]}).json()
    assert text == {"prompt": "<user>\u00e9\n<assistant>"}


def test_tokenize_takes_template_arguments(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"enable_thinking": True, "x": 1}}
    answer = http.post("/tokenize", json=body).json()
    assert bytes(answer["tokens"]).decode() == "<user>a\n(think)<assistant>"


def test_tokenize_in_llama_cpps_form(http: httpx.Client) -> None:
    assert http.post("/tokenize", json={"content": "ab"}).json()["tokens"] == [97, 98]
    pieces = http.post("/tokenize", json={"content": "a\u00e9", "add_special": True, "with_pieces": True}).json()
    assert pieces["tokens"] == [{"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]


def test_openapi(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/responses/{response_id}/input_items",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/generate",
        "/v1/score",
        "/get_model_info",
        "/model_info",
        "/health",
        "/ready",
        "/metrics",
        "/version",
        "/",
        "/ping",
        "/load",
        "/tokenizer_info",
        "/pipeline/events",
    }
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/ChatRequest"
    schema = document["components"]["schemas"]["ChatRequest"]
    assert schema["additionalProperties"] is False
    assert set(HINTS) <= set(schema["properties"])
    assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]


def samples(http: httpx.Client) -> dict[str, float]:
    """Return all samples that have the common labels only."""
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            rest = {key: value for key, value in sample.labels.items() if LABELS.get(key) != value}
            key = sample.name + (str(sorted(rest.items())) if rest else "")
            found[key] = sample.value
    return found


def test_request_metrics(http: httpx.Client, clean: RunningServer) -> None:
    before = samples(http)
    assert http.post("/v1/completions", json={"prompt": "abc", "max_tokens": 100, "n": 2}).status_code == 200
    assert http.post("/v1/completions", json={"prompt": "abc", "max_tokens": 4}).status_code == 200
    assert http.get("/nothing/at/all").status_code == 404
    after = samples(http)

    def grown(name: str) -> float:
        return after[f"gllm:{name}"] - before.get(f"gllm:{name}", 0)

    assert grown("prompt_tokens_total") == 9
    assert grown("generation_tokens_total") == 28
    assert grown("request_success_total[('finished_reason', 'stop')]") == 2
    assert grown("request_success_total[('finished_reason', 'length')]") == 1
    assert grown("time_to_first_token_seconds_count") == 3
    assert grown("inter_token_latency_seconds_count") == 25
    for name in (
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_inference_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_max_num_generation_tokens",
        "request_time_per_output_token_seconds",
    ):
        assert grown(f"{name}_count") == 3, name
    assert grown("request_params_n_count") == 2
    assert grown("request_params_max_tokens_sum") == 104
    assert grown("http_requests_total[('method', 'POST'), ('route', '/v1/completions'), ('status', '200')]") == 2
    assert grown("http_requests_total[('method', 'GET'), ('route', 'unknown'), ('status', '404')]") == 1


def test_engine_metrics(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.stats = EngineStats(
        num_running=3,
        num_waiting=4,
        num_deferred=1,
        kv_usage=0.25,
        num_preemptions=7,
        prefix_cache_queries=100,
        prefix_cache_hits=60,
        num_inflight=2,
        stages=[
            StageStats(busy=0.9, bubble=0.1, step_time=0.01, prediction_error=0.05),
            StageStats(busy=0.8, bubble=0.2, step_time=0.02, prediction_error=0.06),
        ],
        microbatch_prefill=TokenHistogram([4, 0, 1] + [0] * 11, 12),
        microbatch_decode=TokenHistogram([0, 5] + [0] * 12, 20),
        iterations=TokenHistogram([39, 0, 1] + [0] * 11, 49),
    )
    got = samples(http)
    assert got["gllm:stage_busy_perc[('stage', '0')]"] == 0.9
    assert got["gllm:stage_bubble_perc[('stage', '1')]"] == 0.2
    assert got["gllm:stage_step_time_seconds[('stage', '1')]"] == 0.02
    assert got["gllm:stage_prediction_error_perc[('stage', '0')]"] == 0.05
    assert got["gllm:microbatch_tokens_bucket[('le', '8.0'), ('phase', 'prefill')]"] == 4
    assert got["gllm:microbatch_tokens_count[('phase', 'prefill')]"] == 5
    assert got["gllm:microbatch_tokens_sum[('phase', 'prefill')]"] == 12
    assert got["gllm:microbatch_tokens_bucket[('le', '+Inf'), ('phase', 'decode')]"] == 5
    assert got["gllm:num_requests_running"] == 3
    assert got["gllm:num_requests_waiting"] == 4
    assert got["gllm:num_requests_waiting_by_reason[('reason', 'capacity')]"] == 3
    assert got["gllm:num_requests_waiting_by_reason[('reason', 'deferred')]"] == 1
    assert got["gllm:iteration_tokens_total_bucket[('le', '1.0')]"] == 39
    assert (got["gllm:iteration_tokens_total_count"], got["gllm:iteration_tokens_total_sum"]) == (40, 49)
    assert got["gllm:kv_cache_usage_perc"] == 0.25
    assert got["gllm:num_inflight_microbatches"] == 2
    assert got["gllm:prefix_cache_queries_total"] == 100
    assert got["gllm:prefix_cache_hits_total"] == 60
    shape = {
        "block_size": "16",
        "kv_cache_max_concurrency": "2.0",
        "kv_cache_size_tokens": "1024",
        "num_gpu_blocks": "64",
    }
    assert got[f"gllm:cache_config_info{list(shape.items())}"] == 1
    # A new engine counts from zero; the gateway's counters never fall.
    clean.engine.stats = EngineStats(num_preemptions=2)
    got = samples(http)
    assert got["gllm:num_preemptions_total"] == 9
    assert got["gllm:microbatch_tokens_count[('phase', 'prefill')]"] == 5
    assert got["gllm:iteration_tokens_total_count"] == 40
    clean.engine.hello = None
    got = samples(http)
    assert (got["gllm:num_requests_running"], got["gllm:engine_up"]) == (0, 0)
    assert got["gllm:num_preemptions_total"] == 9


def test_length_buckets() -> None:
    assert length_buckets(100) == (1, 2, 5, 10, 20, 50, 100)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ({"ttft_target": 1.0, "tpot_target": 0.05}, {"ttft": 2.0, "tpot": 2.0, "all": 1.0}),
        ({"ttft_target": 1.0}, {"ttft": 2.0, "all": 2.0}),
        ({}, {}),
    ],
)
def test_goodput_counts_choices_that_met_the_targets(targets: dict[str, float], expected: dict[str, float]) -> None:
    engine: Any = SimpleNamespace(hello=None, stats=EngineStats())
    metrics = GatewayMetrics("tiny", 4096, engine, **targets)
    for ttft, decode_time in ((0.9, 4.9), (0.9, 9.0), (2.0, 4.9)):  # both met, TPOT missed, TTFT missed
        metrics.finished(
            FinishedChoice(
                reason="length",
                prompt_tokens=5,
                completion_tokens=101,
                max_tokens=101,
                latency=ttft + decode_time,
                queue_time=0.1,
                prefill_time=0.1,
                decode_time=decode_time,
            )
        )
    found = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            if sample.name == "gllm:request_targets_met_total":
                found[sample.labels["target"]] = sample.value
    assert found == expected
