"""POST /v1/responses: the input of the model, and refused requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateway_fakes import RunningServer
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from responses_checks import TOOLS, able_server, create, prompt_of, refused, says, stream

from gllm.gateway.api.responses.response_chat import chat_messages
from gllm.gateway.protocol.fields import HINTS
from gllm.gateway.protocol.responses_schema import REFUSED, ResponsesRequest

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with able_server() as running:
        yield running


def test_history(http: httpx.Client, server: RunningServer) -> None:
    """Items as OpenAI's client sends them back, with keys that have no meaning here."""
    items = [
        {"role": "developer", "content": "Rules"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "encrypted_content": None,
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "phase": "commentary",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Calling", "annotations": [], "logprobs": None}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "weather",
            "arguments": "{}",
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "warm"}]},
        {"role": "assistant", "content": "Warm", "foo": 1},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        {"role": "user", "content": "thanks"},
    ]
    create(
        http,
        input=[
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": 1}},
            {"type": "function_call_output", "call_id": "c", "output": None},
        ],
    )
    create(http, input=items, instructions="First")
    assert prompt_of(server) == (
        "<system>First\n<system>Rules\n<user>ab\n<assistant>Calling\n<tool>warm\n<assistant>Warm\n<assistant>No\n"
        "<user>thanks\n<assistant>"
    )


def test_calls_and_reasoning_are_one_assistant_message() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "summary": [{"text": "short"}], "content": []}
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So"}]}
    shown = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert chat_messages(None, [thought, text, call, call, thought, call, thought]) == [
        {"role": "assistant", "reasoning_content": "short", "content": "So", "tool_calls": [shown, shown]},
        {"role": "assistant", "reasoning_content": "short", "tool_calls": [shown]},
    ]


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
    # A tool's output is dropped with its call.
    create(http, input=items, truncation="auto", max_output_tokens=330)
    assert prompt_of(server) == "<system>Rules\n<user>last\n<assistant>"
    assert refused(http, input="x" * 600, truncation="auto")["code"] == "context_length_exceeded"
    create(http, input="short", truncation="auto")


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": None}, "input", "previous_response_id"),
        ({"background": True}, "background", "background"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"n": 2}, "n", "not supported"),
        ({"messages": [{"role": "user"}]}, "messages", "not supported"),
        ({"foo": 1}, "foo", "not supported"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            "text only",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "text only"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]", "web_search_call"),
        ({"input": [{"type": "message", "content": "Hi"}]}, "input[0].role", "missing"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "web_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing"),
        ({"tool_choice": {"type": "file_search"}, "tools": TOOLS}, "tool_choice", "file_search"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": TOOLS}, "tool_choice", "no tool named 'x'"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}},
            "tool_choice",
            "no tool named 'x'",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_object"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
        ({"max_output_tokens": 600}, "input", "max_output_tokens or max_completion_tokens is too large: 600."),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"model": "other"}, "model", "does not exist"),
    ],
)
def test_refused(http: httpx.Client, body: dict[str, Any], param: str, says: str) -> None:
    error = refused(http, **body)
    assert error["param"] == param
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_schema_covers_openais_client() -> None:
    known = set(ResponseCreateParamsBase.__annotations__) | {"stream"}
    assert known <= set(ResponsesRequest.model_fields) | set(REFUSED) | set(HINTS)


def test_a_grammar_that_fails_late(http: httpx.Client, server: RunningServer) -> None:
    form = {"format": {"type": "json_object"}}
    server.engine.invalid, server.engine.fail_at = "too complex", 4
    event = stream(http, text=form)[-1]
    assert event["type"] == "response.failed"
    assert event["response"]["error"] == {"code": "invalid_prompt", "message": "text.format: too complex"}
    assert refused(http, text=form)["param"] == "text.format"
    server.engine.fail_at = 0
    error = refused(http, text=form, stream=True)
    assert (error["status"], error["param"], error["message"]) == (400, "text.format", "text.format: too complex")
