"""What real processes tell of themselves: OpenTelemetry traces, log lines and `gllm top`.

A group of two stages, and `gllm gateway` in front of it.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from serving import Server, end_all, until

from fixtures.collector import Collector, ReceivedSpan
from fixtures.metrics import metric_sum
from fixtures.ports import free_port
from fixtures.tiny_models import write_hf
from gllm.wire.curve import make_keys

pytestmark = pytest.mark.timing

ENV = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_SERVICE_NAME": "chat", "OTEL_RESOURCE_ATTRIBUTES": "team=blue"}
SERVER_KIND = 2


class Traced(NamedTuple):
    collector: Collector
    group: Server
    gateway: Server
    """In front of the group."""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    model = write_hf("llama", folder / "model", num_hidden_layers=2, max_position_embeddings=8192)
    keys = folder / "keys"
    keys.write_text(make_keys().text())
    port = str(free_port())
    with Collector() as collector:
        more = ["--keys-file", str(keys), "--otlp-endpoint", collector.url, "--log-level", "debug"]
        small = ["--policy", "chunked_prefill", "--max-prefill-tokens", "16", "--min-prefill-tokens", "8"]
        group = Server(model, folder / "group", "--pp", "2", "--engine-port", port, *more, *small, env=ENV)
        gateway = Server(model, folder / "gateway", "--engines", f"127.0.0.1:{port}", *more, env=ENV, command="gateway")
        try:
            group.wait_ready()
            gateway.wait_ready()
            yield Traced(collector, group, gateway)
        finally:
            end_all([group, gateway])


def complete(server: Server, trace: str, *, sampled: bool = True, **fields: object) -> dict[str, object]:
    flags = "01" if sampled else "00"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-{flags}", "x-request-id": f"id-{trace[:8]}"}
    body = {"model": "tiny", "prompt": "x" * 40, "max_tokens": 12, "ignore_eos": True, "temperature": 0, **fields}
    answer = server.http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == headers["x-request-id"]
    return answer.json()


def wait_for(collector: Collector, trace: str, *names: str) -> dict[str, ReceivedSpan]:
    """Return the spans by name, when all of these are there."""
    until(lambda: {span.name for span in collector.of(trace)} >= set(names), 20)
    return {span.name: span for span in collector.of(trace)}


STAGES = [f"{phase} stage {stage}" for phase in ("prefill", "decode") for stage in (0, 1)]
ALL = ["POST /v1/completions", "tokenize", "queue", "prefill", "decode", "engine", *STAGES]


@pytest.mark.parametrize("through", ["group", "gateway"])
def test_the_spans_of_a_request(traced: Traced, through: str) -> None:
    trace = secrets.token_hex(16)
    answer = complete(getattr(traced, through), trace)
    spans = wait_for(traced.collector, trace, *ALL)
    assert len(traced.collector.of(trace)) == len(ALL), "no span for a token"

    request, engine = spans["POST /v1/completions"], spans["engine"]
    assert (request.parent, request.kind, request.failed) == ("00f067aa0ba902b7", SERVER_KIND, False)
    for name in ("tokenize", "queue", "prefill", "decode", "engine"):
        assert spans[name].parent == request.span, name
    for name in STAGES:
        assert spans[name].parent == engine.span, name

    usage = answer["usage"]
    assert isinstance(usage, dict)
    found = request.attributes
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == "tiny"
    assert found["gen_ai.usage.input_tokens"] == found["gen_ai.usage.prompt_tokens"] == usage["prompt_tokens"]
    assert found["gen_ai.usage.output_tokens"] == found["gen_ai.usage.completion_tokens"] == 12
    assert found["gen_ai.request.id"] == answer["id"]
    assert found["gen_ai.request.max_tokens"] == 12
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    assert found["http.response.status_code"] == 200
    assert found["http.request.header.x-request-id"] == [f"id-{trace[:8]}"]
    assert 0 < found["gen_ai.latency.time_to_first_token"] < found["gen_ai.latency.e2e"] < request.end - request.begin
    assert engine.attributes["gen_ai.usage.output_tokens"] == 12

    assert spans["queue"].end <= spans["prefill"].end <= spans["decode"].end <= request.end
    assert spans["tokenize"].end <= spans["queue"].begin + 0.01
    for stage in (0, 1):
        prefill, decode = spans[f"prefill stage {stage}"], spans[f"decode stage {stage}"]
        cached = engine.attributes["gen_ai.usage.cache_read.input_tokens"]
        assert prefill.attributes["gllm.tokens"] == usage["prompt_tokens"] - cached
        assert sum(event["gllm.tokens"] for event in prefill.events) == prefill.attributes["gllm.tokens"]
        assert len(prefill.events) == prefill.attributes["gllm.steps"] >= (1 if cached else 3), "chunks of 16 tokens"
        assert decode.attributes["gllm.steps"] == 11
        assert 0 < decode.attributes["gllm.busy_seconds"] <= decode.end - decode.begin
        assert prefill.end <= decode.begin
    assert request.resource["service.name"] == engine.resource["service.name"] == "chat"
    assert request.resource["team"] == "blue"
    assert (request.resource["gllm.role"], engine.resource["gllm.role"]) == ("gateway", "engine")


def test_sampling_follows_the_client(traced: Traced) -> None:
    left_out, seen = secrets.token_hex(16), secrets.token_hex(16)
    complete(traced.group, left_out, sampled=False)
    complete(traced.group, seen)
    wait_for(traced.collector, seen, *ALL)
    assert traced.collector.of(left_out) == []


def test_several_choices_and_a_refused_request(traced: Traced) -> None:
    trace = secrets.token_hex(16)
    complete(traced.group, trace, n=2, temperature=1, seed=1)
    until(lambda: sum(span.name == "decode" for span in traced.collector.of(trace)) == 2, 20)
    until(lambda: sum(span.name == "engine" for span in traced.collector.of(trace)) == 2, 20)
    refused = secrets.token_hex(16)
    headers = {"traceparent": f"00-{refused}-00f067aa0ba902b7-01"}
    answer = traced.group.http.post("/v1/completions", json={"prompt": "x", "max_tokens": -1}, headers=headers)
    assert answer.status_code == 400
    spans = wait_for(traced.collector, refused, "POST /v1/completions")
    assert spans["POST /v1/completions"].attributes["http.response.status_code"] == 400
    assert len(spans) == 1


def test_a_trace_goes_on_when_the_engine_is_lost(traced: Traced) -> None:
    trace = secrets.token_hex(16)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(complete, traced.group, trace, max_tokens=1500)
        until(lambda: metric_sum(traced.group.http.get("/metrics").text, "gllm:num_requests_running{") == 1, 20)
        traced.group.kill("engine")
        usage = answer.result(180)["usage"]
    spans = wait_for(traced.collector, trace, *ALL)
    assert isinstance(usage, dict)
    assert usage["completion_tokens"] == 1500
    assert spans["engine"].begin - spans["POST /v1/completions"].begin > 0.1, "the span of the second engine"
    assert spans["engine"].parent == spans["POST /v1/completions"].span
    assert spans["engine"].attributes["gen_ai.usage.output_tokens"] == 1500
    lines = [line for line in traced.group.err().splitlines() if "request waits for another engine" in line]
    assert f"request_id=id-{trace[:8]}" in lines[-1]


def test_latency_histograms_have_exemplars(traced: Traced) -> None:
    trace = secrets.token_hex(16)
    complete(traced.group, trace)
    accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"
    answer = traced.group.http.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    exemplars: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.exemplar is not None:
                exemplars.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert trace in exemplars[f"gllm:{name}_seconds"], name
    plain = traced.group.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "trace_id" not in plain.text


def test_every_log_line_of_a_request_has_its_id(traced: Traced) -> None:
    trace = secrets.token_hex(16)
    complete(traced.gateway, trace)
    traced.group.wait_for_err(f"request_id=id-{trace[:8]}")
    line = next(line for line in traced.group.err().splitlines() if f"request_id=id-{trace[:8]}" in line)
    assert "engine request added" in line
    assert "choice=cmpl-" in line
    answer = traced.group.http.post("/v1/completions", content=b"{", headers={"x-request-id": "bad id"})
    assert answer.headers["x-request-id"] != "bad id"


def test_top_shows_a_group_and_a_gateway(traced: Traced) -> None:
    complete(traced.gateway, secrets.token_hex(16))
    urls = [f"http://127.0.0.1:{server.port}" for server in (traced.group, traced.gateway)]
    command = [sys.executable, "-m", "gllm.apps.cli.main", "top", *urls, "--once", "--interval", "0.2"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    group, gateway = json.loads(done.stdout)
    assert (group["models"], group["engine_up"], group["running"]) == (["tiny"], True, 0)
    assert [stage["stage"] for stage in group["stages"]] == [0, 1]
    assert all(0 < stage["busy"] <= 1 and stage["step_seconds"] > 0 for stage in group["stages"])
    assert group["output_tokens_per_second"] == 0.0
    assert gateway["stages"] == []
    assert [(engine["up"], engine["requests"]) for engine in gateway["engines"]] == [(True, 0)]
    failed = subprocess.run([*command, "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1, "one server does not answer"
    assert "1 of 1 engines" in failed.stdout
    assert failed.stderr == ""


def test_the_last_spans_are_sent_at_the_end(traced: Traced) -> None:
    """The last test of the module: it ends the group."""
    trace = secrets.token_hex(16)
    complete(traced.group, trace)
    traced.group.process.send_signal(signal.SIGTERM)
    assert traced.group.finish() == 0
    assert {span.name for span in traced.collector.of(trace)} == set(ALL)
