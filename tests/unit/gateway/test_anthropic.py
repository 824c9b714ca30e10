"""Anthropic's Messages API over HTTP: messages, errors, and what the SDK relies on in events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateway_fakes import EOS, RunningServer, make_server, served_model, wait_until

from gllm.gateway.protocol.errors import INTERNAL_MESSAGE, bad_request
from gllm.text.output.reasoning import reasoning_parser_for
from gllm.text.tool_parsers import HERMES, ToolParser

HI: dict[str, Any] = {"model": "tiny", "max_tokens": 200, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS: list[Any] = [
    {"name": "weather", "description": "Looks outside", "input_schema": {"type": "object"}},
    {"name": "time", "input_schema": {"type": "object", "properties": {}}, "type": "custom"},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def able() -> Iterator[RunningServer]:
    """A model with tools and reasoning."""
    model = served_model(
        tool_parser=lambda: ToolParser(HERMES),
        reasoning_parser=lambda prompt: reasoning_parser_for("qwen3", "", prompt),
    )
    with make_server(model=model) as server:
        yield server


@pytest.fixture
def api(able: RunningServer) -> Iterator[httpx.Client]:
    able.engine.reset()
    with httpx.Client(base_url=able.url, timeout=10, headers={"anthropic-version": "2023-06-01"}) as client:
        yield client


def says(server: RunningServer, text: str) -> None:
    server.engine.reply = lambda *_: [*text.encode(), EOS]


def prompt_of(server: RunningServer) -> str:
    return bytes(server.engine.submitted[-1].prompt).decode()


def create(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/messages", json={**HI, **fields})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "tiny")
    return message


def stream(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """Return the events without pings; each has its own name."""
    answer = client.post("/v1/messages", json={**HI, **fields, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for frame in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return [event for event in events if event["type"] != "ping"]


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that the events make. They must come in order, with one block open at a time."""
    first, *between, last = events
    assert (first["type"], last["type"]) == ("message_start", "message_stop")
    message: dict[str, Any] = first["message"]
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    content: list[dict[str, Any]] = message["content"]
    parts: list[str] = []
    is_open = False
    for event in between:
        kind = event["type"]
        if kind == "message_delta":
            assert not is_open
            message |= event["delta"]
            message["usage"] |= event["usage"]
            continue
        assert event["index"] == len(content) - (kind != "content_block_start")
        assert is_open == (kind != "content_block_start")
        if kind == "content_block_start":
            is_open = True
            content.append(event["content_block"])
            parts = []
        elif kind == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "signature_delta":
                content[-1]["signature"] = delta["signature"]
            else:
                parts.append(delta[{"input_json_delta": "partial_json"}.get(delta["type"], delta["type"][:-6])])
        else:
            assert kind == "content_block_stop"
            is_open = False
            block, text = content[-1], "".join(parts)
            if block["type"] == "tool_use":
                block["input"] = json.loads(text or "{}")
            else:
                block[block["type"]] = text
    return message


@pytest.mark.parametrize(
    ("text", "content", "reason"),
    [
        ("Hello world", [{"type": "text", "text": "Hello world"}], "end_turn"),
        ("", [{"type": "text", "text": ""}], "end_turn"),
        (
            "<think>\nhm\n</think>\n\nYes",
            [{"type": "thinking", "thinking": "hm", "signature": "unsigned"}, {"type": "text", "text": "Yes"}],
            "end_turn",
        ),
        ("<think>\nhm", [{"type": "thinking", "thinking": "hm", "signature": "unsigned"}], "end_turn"),
        (
            f"Let me look.\n{CALL}\n{CALL_2}",
            [
                {"type": "text", "text": "Let me look.\n"},
                {"type": "tool_use", "name": "weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "name": "time", "input": {}},
            ],
            "tool_use",
        ),
        (f"\n{CALL}", [{"type": "tool_use", "name": "weather", "input": {"city": "Paris"}}], "tool_use"),
    ],
)
@pytest.mark.parametrize("tokens_per_output", [1, 1000])
def test_answers(
    api: httpx.Client, able: RunningServer, text: str, content: list[Any], reason: str, tokens_per_output: int
) -> None:
    able.engine.tokens_per_output = tokens_per_output
    able.engine.cached_tokens = 3
    says(able, text)
    for message in (create(api, tools=TOOLS), put_together(stream(api, tools=TOOLS))):
        assert message["stop_reason"] == reason
        assert message["stop_sequence"] is None
        ids = [block.pop("id") for block in message["content"] if block["type"] == "tool_use"]
        assert all(one.startswith("toolu_") for one in ids)
        assert len(set(ids)) == len(ids)
        assert message["content"] == content
        usage = message["usage"]
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(able.engine.submitted[-1].prompt)
        assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (3, 0)
        assert usage["output_tokens"] == len(text.encode()) + 1


def test_stop_sequence(api: httpx.Client, able: RunningServer) -> None:
    says(able, "one two three")
    fields: dict[str, Any] = {"stop_sequences": ["x", " th"]}
    for message in (create(api, **fields), put_together(stream(api, **fields))):
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", " th")
        assert message["content"] == [{"type": "text", "text": "one two"}]


def test_limits(api: httpx.Client, able: RunningServer) -> None:
    says(able, "a" * 1000)
    assert create(api, max_tokens=3)["stop_reason"] == "max_tokens"
    # More tokens than fit: the answer ends where the context is full.
    message = create(api, max_tokens=100_000)
    assert message["stop_reason"] == "model_context_window_exceeded"
    assert message["usage"]["input_tokens"] + message["usage"]["output_tokens"] == 512


def test_a_call_that_is_cut_off(api: httpx.Client, able: RunningServer) -> None:
    says(able, CALL)
    message = create(api, tools=TOOLS, max_tokens=CALL.index("ris"))
    assert message["stop_reason"] == "max_tokens"
    assert message["content"][0]["input"] == {"city": "Pa"}


def test_ping_comes_after_the_first_block_begins(http: httpx.Client) -> None:
    frames = http.post("/v1/messages", json={**HI, "stream": True}).text.split("\n\n")
    assert [frame.partition("\n")[0] for frame in frames[:3]] == [
        "event: message_start",
        "event: content_block_start",
        "event: ping",
    ]


def test_sampling_reaches_the_engine(api: httpx.Client, able: RunningServer) -> None:
    create(
        api,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["a", "b"],
        max_tokens=9,
        metadata={"user_id": "u"},
        service_tier="auto",
        thinking={"type": "disabled"},
        cache_control={"type": "ephemeral"},
        mcp_servers=[],
        system=None,
        tools=None,
        tool_choice=None,
    )
    sampling = able.engine.submitted[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert sampling.max_tokens == 9


def test_count_tokens(api: httpx.Client, able: RunningServer) -> None:
    body = {key: value for key, value in HI.items() if key != "max_tokens"}
    counted = api.post("/v1/messages/count_tokens", json={**body, "system": "Be kind", "tools": TOOLS})
    assert counted.json() == {"input_tokens": create(api, system="Be kind", tools=TOOLS)["usage"]["input_tokens"]}
    assert api.post("/v1/messages/count_tokens?beta=true", json={**body, "model": "x"}).status_code == 404


def test_output_format(api: httpx.Client, able: RunningServer) -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    for fields in ({"output_config": {"format": form, "effort": "max"}}, {"output_format": form}):
        create(api, **fields)
        assert (able.engine.submitted[-1].sampling.grammar or "").startswith("json:")


def error_of(answer: httpx.Response, status: int, kind: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    message: str = body["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": None}, "'max_tokens' is missing"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"container": "c"}, "'container' is not supported"),
        ({"temperature": -1}, "temperature"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "'web_search_20250305' is a tool of"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "needs 'name'"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "no tool named 'x'"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "of type 'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "of type 'document'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "needs 'text'"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f"}]}]}, "'input'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "a"}]}]}, "'tool_use_id'"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"messages": [{"role": "user", "content": "a" * 600}]}, "maximum context length is 512 tokens"),
    ],
)
def test_bad_requests(api: httpx.Client, fields: dict[str, Any], says: str) -> None:
    assert says in error_of(api.post("/v1/messages", json={**HI, **fields}), 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("param", "name"),
    [
        ("response_format", "output_config.format"),
        ("tools[3].function.parameters", "tools[3].input_schema"),
        ("tools[3].function.name", "tools[3].name"),
        ("max_tokens", "max_tokens"),
    ],
)
def test_errors_name_anthropics_fields(param: str, name: str) -> None:
    shown = bad_request(param, f"{param}: Invalid type: bogus").anthropic_object()
    assert shown["error"]["message"] == f"{name}: Invalid type: bogus"


def test_threads_are_refused_with_the_code_that_the_sdk_knows(api: httpx.Client) -> None:
    answer = api.post("/v1/messages?beta=true", json={**HI, "thread": {"type": "create"}})
    error_of(answer, 400, "invalid_request_error")
    assert answer.json()["error"]["details"]["error_code"] == "thread_unsupported_request"


def test_other_errors(http: httpx.Client, clean: RunningServer) -> None:
    assert "'tiny'" in error_of(http.post("/v1/messages", json={**HI, "model": "claude-x"}), 404, "not_found_error")
    error_of(http.post("/v1/messages/batches", json={}), 404, "not_found_error")
    error_of(http.get("/v1/messages/"), 405, "invalid_request_error")
    error_of(http.post("/v1/messages", content=b"{"), 400, "invalid_request_error")
    error_of(http.post("/v1/messages", content=b" " * (16 * 2**20 + 1)), 413, "request_too_large")
    clean.engine.fail_at = 0
    assert error_of(http.post("/v1/messages", json=HI), 500, "api_error") == INTERNAL_MESSAGE
    clean.engine.hello = None
    assert error_of(http.post("/v1/messages", json=HI), 503, "overloaded_error")
    assert "request-id" not in http.get("/version").headers


def test_error_within_a_stream(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.fail_at = 3
    *_, last, end = http.post("/v1/messages", json={**HI, "stream": True}).text.split("\n\n")
    name, data = last.split("\n")
    assert (name, end) == ("event: error", "")
    error = json.loads(data.removeprefix("data: "))["error"]
    code = {"error_code": "internal_error"}
    assert error == {"type": "api_error", "message": INTERNAL_MESSAGE, "details": code}


def test_key_and_queue(start: Any) -> None:
    server = start(api_key="s3cret", max_queued_requests=0, engine_config={"max_num_seqs": 1})
    server.engine.up.max_num_seqs = 1
    with httpx.Client(base_url=server.url, timeout=10) as client:
        error_of(client.post("/v1/messages", json=HI), 401, "authentication_error")
        client.headers["x-api-key"] = "s3cret"
        assert client.post("/v1/messages", json=HI).status_code == 200
        server.engine.hold_at = 1
        with client.stream("POST", "/v1/messages", json={**HI, "stream": True}):
            refused = client.post("/v1/messages", json=HI)
            error_of(refused, 429, "rate_limit_error")
            assert int(refused.headers["retry-after"]) >= 1
        wait_until(lambda: not server.engine.live)
