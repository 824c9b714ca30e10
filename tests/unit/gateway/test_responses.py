"""POST /v1/responses: answers, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from gateway_fakes import RunningServer
from openai.types.responses import CompactedResponse
from responses_checks import TOOLS, able_server, comparable, create, prompt_of, refused, says, stream

from gllm.gateway.protocol.responses_schema import CHAT_EXTRAS, REFUSED, ResponsesRequest

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
KEYS = {
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with able_server() as running:
        yield running


def test_whole(http: httpx.Client) -> None:
    response = create(http, instructions="Be brief", metadata={"a": "b"}, max_output_tokens=50, user="me")
    assert set(response) >= KEYS
    assert response["status"] == "completed"
    assert response["completed_at"] >= response["created_at"]
    (message,) = response["output"]
    part = {"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}
    assert message == {
        "id": message["id"],
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    prompt = len(b"<system>Be brief\n<user>Hi\n<assistant>")
    assert response["usage"] == {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + 12,
    }
    # The model's defaults, not OpenAI's.
    assert response["temperature"] == 0.6
    assert response["metadata"] == {"a": "b"}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}


def test_null_is_not_given(http: httpx.Client) -> None:
    names = (set(ResponsesRequest.model_fields) | CHAT_EXTRAS | set(REFUSED)) - {"model", "input"}
    assert create(http, **dict.fromkeys(names))["status"] == "completed"


def test_streamed(http: httpx.Client) -> None:
    events = stream(http)
    kinds = [event["type"] for event in events]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 11,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event["delta"] for event in events if "delta" in event) == "Hello world"
    assert events[2]["item"]["content"] == []
    assert events[3]["part"]["text"] == ""
    assert comparable(events[-1]["response"]) == comparable(create(http))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("<think>Well</think>Hello", ["reasoning", "message"]),
        ("<think>Well</think>Look:" + CALL + CALL_2, ["reasoning", "message", "function_call", "function_call"]),
        (CALL, ["function_call"]),
        ("", ["message"]),
    ],
)
def test_items(http: httpx.Client, server: RunningServer, text: str, kinds: list[str]) -> None:
    says(server, text)
    whole = create(http, tools=TOOLS)
    events = stream(http, tools=TOOLS)
    assert [item["type"] for item in whole["output"]] == kinds
    assert comparable(events[-1]["response"]) == comparable(whole)
    # The events alone give the same output.
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    for index, item in enumerate(done):
        mine = [event for event in events if event.get("output_index") == index]
        assert all(event.get("item_id", item["id"]) == item["id"] for event in mine)
        grown = "".join(event["delta"] for event in mine if "delta" in event)
        assert grown == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])
    if kinds[0] == "reasoning":
        assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    if kinds[-1] == "function_call":
        assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= {
            event["type"] for event in events
        }


def test_incomplete(http: httpx.Client, server: RunningServer) -> None:
    response = create(http, max_output_tokens=5)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert response["output"][0]["status"] == "incomplete"
    assert stream(http, max_output_tokens=5)[-1]["type"] == "response.incomplete"
    says(server, CALL)
    cut = create(http, tools=TOOLS, max_output_tokens=60)
    assert (cut["status"], cut["output"][0]["status"]) == ("incomplete", "incomplete")


def test_failed(http: httpx.Client, server: RunningServer) -> None:
    server.engine.fail_at = 4
    events = stream(http)
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.failed"
    assert response["error"]["code"] == "server_error"
    assert "secret" not in json.dumps(response)
    assert response["output"][0]["content"][0]["text"] == "Hell"
    assert http.get(f"/v1/responses/{response['id']}").status_code == 404
    assert http.post("/v1/responses", json={"input": "Hi"}).status_code == 500


def test_logprobs(http: httpx.Client) -> None:
    wanted = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    part = create(http, include=wanted, top_logprobs=2)["output"][0]["content"][0]
    assert [entry["token"] for entry in part["logprobs"]][:11] == list("Hello world")
    assert len(part["logprobs"][0]["top_logprobs"]) == 2
    deltas = [event for event in stream(http, include=wanted, top_logprobs=2) if "delta" in event]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
    assert create(http, include=wanted)["output"][0]["content"][0]["logprobs"][0]["top_logprobs"] == []


def test_input_tokens(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="tiny", input="Hi", tools=TOOLS)
    assert counted.input_tokens == len(b"<user>Hi\n[weather,time,]<assistant>")
    assert counted.object == "response.input_tokens"


def test_compact(client: openai.OpenAI, http: httpx.Client, server: RunningServer) -> None:
    says(server, "They met.")
    items = [{"role": "user", "content": "I am Ann"}, {"role": "assistant", "content": "Hello"}]
    body = {"model": "tiny", "input": items, "prompt_cache_key": "k"}
    answer = http.post("/v1/responses/compact", json=body)
    assert prompt_of(server).startswith("<user>I am Ann\n<assistant>Hello\n<user>Summarize")
    message, summary = answer.json()["output"]
    # OpenAI sends the user's messages too, which its client has no type for.
    CompactedResponse.model_validate({**answer.json(), "output": [summary]}, strict=True)
    assert (message["role"], summary["type"]) == ("user", "compaction")
    create(http, input=[message, summary, {"role": "user", "content": "Who?"}])
    assert prompt_of(server) == (
        "<user>I am Ann\n<assistant>Summary of the conversation so far:\nThey met.\n<user>Who?\n<assistant>"
    )
    foreign = {"type": "compaction", "encrypted_content": "gAAAAAB"}
    assert refused(http, input=[foreign])["param"] == "input"
    # A conversation that leaves no room for a summary loses its oldest messages.
    long = [{"role": "user", "content": "x" * 300}, *items]
    assert http.post("/v1/responses/compact", json={**body, "input": long}).status_code == 200
    assert client.responses.compact(model="tiny", input="Hi").output[-1].type == "compaction"
    assert http.post("/v1/responses/compact", json={"input": "Hi"}).json()["error"]["param"] == "model"


def test_metrics_labels_are_bounded(http: httpx.Client) -> None:
    response = create(http)
    for path in (response["id"], "resp_none", f"{response['id']}/input_items", "a/b/c"):
        http.get(f"/v1/responses/{path}")
    text = http.get("/metrics").text
    assert 'route="/v1/responses/{response_id}"' in text
    assert 'route="/v1/responses/{response_id}/input_items"' in text
    assert response["id"] not in text
