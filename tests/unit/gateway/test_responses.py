"""POST /v1/responses: the official client, and every event and object against its types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import EOS, RunningServer, make_server, served_model
from openai.types.responses import CompactedResponse, Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import TypeAdapter

from gllm.gateway.request.fields import HINTS
from gllm.gateway.responses.schema import CHAT_EXTRAS, REFUSED, ResponsesRequest
from gllm.text.reasoning import reasoning_parser_for
from gllm.text.tool_parsers import HERMES, ToolParser

TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False},
    {"type": "function", "name": "time", "description": "What time it is"},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
KEYS = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
}  # fmt: skip
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A model with tools and reasoning."""
    model = served_model(
        tool_parser=lambda: ToolParser(HERMES),
        reasoning_parser=lambda prompt: reasoning_parser_for("qwen3", "", prompt),
        sampling_defaults={"temperature": 0.6},
    )
    with make_server(model=model) as running:
        yield running


def says(server: RunningServer, text: str) -> None:
    server.engine.reply = lambda *_: [*text.encode(), EOS]


def prompt_of(server: RunningServer) -> str:
    return bytes(server.engine.submitted[-1].prompt).decode()


def create(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/responses", json={"model": "tiny", "input": "Hi", **body})
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    Response.model_validate(response, strict=True)
    return response


def stream(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    answer = http.post("/v1/responses", json={"model": "tiny", "input": "Hi", "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for frame in answer.text.removesuffix("data: [DONE]\n\n").removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event, strict=True)
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        events.append(event)
    return events


def refused(http: httpx.Client, path: str = "/v1/responses", **body: Any) -> dict[str, Any]:
    answer = http.post(path, json={"model": "tiny", "input": "Hi", **body})
    assert answer.status_code in (400, 404), answer.text
    error: dict[str, Any] = answer.json()["error"]
    return {"status": answer.status_code, **error}


def comparable(value: Any) -> Any:
    """Without ids and times."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, dict):
        changing = ("id", "call_id", "created_at", "completed_at")
        return {key: comparable(item) for key, item in value.items() if key not in changing}
    return value


def test_whole(http: httpx.Client) -> None:
    response = create(http, instructions="Be brief", metadata={"a": "b"}, max_output_tokens=50, user="me")
    assert set(response) >= KEYS
    assert response["status"] == "completed"
    assert response["completed_at"] >= response["created_at"]
    (message,) = response["output"]
    part = {"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}
    assert message == {"id": message["id"], "type": "message", "role": "assistant", "status": "completed",
                       "content": [part]}  # fmt: skip
    prompt = len(b"<system>Be brief\n<user>Hi\n<assistant>")
    assert response["usage"] == {
        "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 12, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": prompt + 12,
    }  # fmt: skip
    # What the model's own defaults say, and not OpenAI's.
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
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * 11, "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
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
    # The events alone make the same output.
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


def test_history(http: httpx.Client, server: RunningServer) -> None:
    """Whatever OpenAI's client sends back, with keys that mean nothing here."""
    items = [
        {"role": "developer", "content": "Rules"},
        {"type": "message", "role": "user",
         "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None,
         "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "phase": "commentary", "status": "completed",
         "content": [{"type": "output_text", "text": "Calling", "annotations": [], "logprobs": None}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{}",
         "status": "completed"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "warm"}]},
        {"role": "assistant", "content": "Warm", "foo": 1},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        {"role": "user", "content": "thanks"},
    ]  # fmt: skip
    create(http, input=items, instructions="First")
    assert prompt_of(server) == (
        "<system>First\n<system>Rules\n<user>ab\n<assistant>Calling\n<tool>warm\n<assistant>Warm\n<assistant>No\n"
        "<user>thanks\n<assistant>"
    )


def test_calls_and_reasoning_are_one_assistant_message() -> None:
    from gllm.gateway.responses.convert import chat_messages

    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "summary": [{"text": "short"}], "content": []}
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So"}]}
    shown = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert chat_messages(None, [thought, text, call, call, thought, call, thought]) == [
        {"role": "assistant", "reasoning_content": "short", "content": "So", "tool_calls": [shown, shown]},
        {"role": "assistant", "reasoning_content": "short", "tool_calls": [shown]},
    ]


def test_previous_response(client: openai.OpenAI, http: httpx.Client, server: RunningServer) -> None:
    first = client.responses.create(model="tiny", input="My name is Ann", instructions="Rules")
    says(server, "Ann")
    second = client.responses.create(model="tiny", input="Who am I?", previous_response_id=first.id, store=False)
    # Instructions are not carried over.
    assert prompt_of(server) == "<user>My name is Ann\n<assistant>Hello world\n<user>Who am I?\n<assistant>"
    assert second.previous_response_id == first.id
    assert client.responses.retrieve(first.id) == first
    with pytest.raises(openai.NotFoundError, match="Response with id"):
        client.responses.retrieve(second.id)
    # A stored item can be named instead of sent.
    create(http, input=[{"type": "item_reference", "id": first.output[0].id}, {"id": first.output[0].id}])
    assert prompt_of(server) == "<assistant>Hello world\n<assistant>Hello world\n<assistant>"
    client.responses.delete(first.id)
    error = refused(http, previous_response_id=first.id)
    assert (error["status"], error["param"], error["code"]) == (
        404, "previous_response_id", "previous_response_not_found",
    )  # fmt: skip
    assert refused(http, input=[{"type": "item_reference", "id": "msg_none"}])["code"] == "item_not_found"


def test_previous_response_streamed(http: httpx.Client, server: RunningServer) -> None:
    response = stream(http)[-1]["response"]
    assert http.get(f"/v1/responses/{response['id']}").json() == response
    stream(http, input="More", previous_response_id=response["id"])
    assert prompt_of(server) == "<user>Hi\n<assistant>Hello world\n<user>More\n<assistant>"


def test_input_items(client: openai.OpenAI, http: httpx.Client) -> None:
    first = client.responses.create(model="tiny", input="one")
    second = client.responses.create(model="tiny", input="two", previous_response_id=first.id)
    path = f"/v1/responses/{second.id}/input_items"
    page = http.get(path).json()
    ResponseItemList.model_validate(page, strict=True)
    assert [item["content"][0]["text"] for item in page["data"]] == ["two", "Hello world", "one"]
    assert page["has_more"] is False
    page = http.get(path, params={"order": "asc", "limit": 1}).json()
    assert (page["data"][0]["content"][0]["text"], page["has_more"]) == ("one", True)
    following = http.get(path, params={"order": "asc", "after": page["last_id"]}).json()
    assert [item["role"] for item in following["data"]] == ["assistant", "user"]
    assert len(list(client.responses.input_items.list(second.id, limit=1))) == 3
    for params in ({"order": "up"}, {"limit": "0"}, {"limit": "x"}, {"after": "msg_none"}):
        assert http.get(path, params=params).status_code == 400


def test_cancel(client: openai.OpenAI) -> None:
    response = client.responses.create(model="tiny", input="Hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")
    with pytest.raises(openai.BadRequestError, match="stream"):
        list(client.responses.retrieve(response.id, stream=True))


def test_tools(http: httpx.Client, server: RunningServer) -> None:
    says(server, CALL)
    response = create(http, tools=TOOLS, tool_choice="auto", parallel_tool_calls=False, max_tool_calls=3)
    assert "[weather,time,]" in prompt_of(server)
    assert response["tools"] == [
        {"description": None, **TOOLS[0]},
        {"parameters": None, "strict": None, **TOOLS[1]},
    ]
    assert response["parallel_tool_calls"] is False
    grammars = [
        ("required", "tools:2:required:True"),
        ({"type": "function", "name": "time"}, "tools:2:time:True"),
        ({"type": "allowed_tools", "mode": "required", "tools": [TOOLS[1]]}, "tools:1:required:True"),
    ]
    for choice, grammar in grammars:
        answer = create(http, tools=TOOLS, tool_choice=choice)
        assert server.engine.submitted[-1].sampling.grammar == grammar
        assert answer["tool_choice"] == (choice if isinstance(choice, str) else {**choice, **answer["tool_choice"]})
    create(http, tools=TOOLS, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [TOOLS[0]]})
    assert "[weather,]" in prompt_of(server)
    create(http, tools=TOOLS, tool_choice="none")
    assert "[weather" not in prompt_of(server)
    create(http, tools=[], tool_choice="auto", parallel_tool_calls=False)


def test_text_format(http: httpx.Client, server: RunningServer) -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    response = create(http, text={"format": form, "verbosity": "low"})
    assert server.engine.submitted[-1].sampling.grammar == "json:['type']"
    assert response["text"] == {"format": {**form, "description": None}, "verbosity": "low"}
    create(http, text={"format": {"type": "json_object"}})
    assert server.engine.submitted[-1].sampling.grammar == "object"
    create(http, text={"format": {"type": "text"}})
    assert server.engine.submitted[-1].sampling.grammar is None
    error = refused(http, text={"format": {**form, "schema": {"bad": 1}}})
    assert error["param"] == "text.format"
    assert "response_format" not in error["message"]


def test_chat_extras(http: httpx.Client, server: RunningServer) -> None:
    response = create(http, top_k=7, seed=5, stop=["wor"], chat_template_kwargs={"enable_thinking": True})
    sampling = server.engine.submitted[-1].sampling
    assert (sampling.top_k, sampling.seed) == (7, 5)
    assert response["output"][0]["content"][0]["text"] == "Hello "
    assert "(think)" in prompt_of(server)
    assert refused(http, top_k="many")["param"] == "top_k"


def test_truncation(http: httpx.Client, server: RunningServer) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    items = [
        {"role": "system", "content": "Rules"},
        *({"role": "user", "content": str(i) * 150} for i in range(3)),
        call,
        {"type": "function_call_output", "call_id": "c", "output": "w" * 150},
        {"role": "user", "content": "last"},
    ]
    error = refused(http, input=items)
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
    response = create(http, input=items, truncation="auto", max_output_tokens=100)
    assert response["truncation"] == "auto"
    text = f"<system>Rules\n<user>{'2' * 150}\n<assistant>\n<tool>{'w' * 150}\n<user>last\n<assistant>"
    assert prompt_of(server) == text
    # A tool's output does not stay without its call.
    create(http, input=items, truncation="auto", max_output_tokens=330)
    assert prompt_of(server) == "<system>Rules\n<user>last\n<assistant>"
    assert refused(http, input="x" * 600, truncation="auto")["code"] == "context_length_exceeded"
    create(http, input="short", truncation="auto")


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
    # A conversation that leaves no room for a summary is cut at its beginning.
    long = [{"role": "user", "content": "x" * 300}, *items]
    assert http.post("/v1/responses/compact", json={**body, "input": long}).status_code == 200
    assert client.responses.compact(model="tiny", input="Hi").output[-1].type == "compaction"
    assert http.post("/v1/responses/compact", json={"input": "Hi"}).json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": None}, "input", "previous_response_id"),
        ({"background": True}, "background", "background"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"n": 2}, "n", "not supported"),
        ({"messages": [{"role": "user"}]}, "messages", "not supported"),
        ({"foo": 1}, "foo", "not supported"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]",
         "text only"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "text only"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]", "web_search_call"),
        ({"input": [{"type": "message", "content": "Hi"}]}, "input[0].role", "missing"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "web_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing"),
        ({"tool_choice": {"type": "file_search"}, "tools": TOOLS}, "tool_choice", "file_search"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": TOOLS}, "tool_choice", "no tool named 'x'"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}},
         "tool_choice", "no tool named 'x'"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_object"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
        ({"max_output_tokens": 600}, "input", "600 more"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"model": "other"}, "model", "does not exist"),
    ],
)  # fmt: skip
def test_refused(http: httpx.Client, body: dict[str, Any], param: str, says: str) -> None:
    error = refused(http, **body)
    assert error["param"] == param
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_schema_covers_openais_client() -> None:
    known = set(ResponseCreateParamsBase.__annotations__) | {"stream"}
    assert known <= set(ResponsesRequest.model_fields) | set(REFUSED) | set(HINTS)


def test_metrics_labels_are_bounded(http: httpx.Client) -> None:
    response = create(http)
    for path in (response["id"], "resp_none", f"{response['id']}/input_items", "a/b/c"):
        http.get(f"/v1/responses/{path}")
    text = http.get("/metrics").text
    assert 'route="/v1/responses/{response_id}"' in text
    assert 'route="/v1/responses/{response_id}/input_items"' in text
    assert response["id"] not in text
