"""Chat: templates, tools, reasoning, grammars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import EOS, RunningServer, make_server, served_model, wait_until

from gllm.text.output.reasoning import reasoning_parser_for
from gllm.text.tool_parsers import HERMES, ToolParser

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "time"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def able() -> Iterator[RunningServer]:
    """A model with tools and reasoning."""
    model = served_model(
        tool_parser=lambda: ToolParser(HERMES),
        reasoning_parser=lambda prompt: reasoning_parser_for("qwen3", "", prompt),
        sampling_defaults={"temperature": 0.6, "top_k": 20},
    )
    with make_server(model=model) as server:
        yield server


@pytest.fixture
def tools(able: RunningServer) -> Iterator[openai.OpenAI]:
    able.engine.reset()
    with openai.OpenAI(base_url=f"{able.url}/v1", api_key="x", max_retries=0, timeout=10) as client:
        yield client


def says(server: RunningServer, text: str) -> None:
    server.engine.reply = lambda *_: [*text.encode(), EOS]


def prompt_of(server: RunningServer) -> str:
    return bytes(server.engine.submitted[-1].prompt).decode()


def test_template_arguments(http: httpx.Client, clean: RunningServer) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c"},
    ]
    body = {"messages": messages, "chat_template_kwargs": {"enable_thinking": True}, "add_generation_prompt": False}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert prompt_of(clean) == "<system>ab\n<user>c\n(think)"
    body = {"messages": [*MESSAGES, {"role": "assistant", "content": "Well"}], "continue_final_message": True}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert prompt_of(clean) == "<user>Hi\n<assistant>Well"


def test_no_template(http: httpx.Client, clean: RunningServer) -> None:
    with make_server(model=served_model(template=None)) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": MESSAGES})
    assert answer.status_code == 400
    assert "--chat-template" in answer.json()["error"]["message"]


@pytest.mark.parametrize("choice", ["auto", None])
def test_no_tool_parser(http: httpx.Client, choice: str | None) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "tools": TOOLS, "tool_choice": choice})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}])
def test_forced_calls_need_no_tool_parser(
    client: openai.OpenAI, clean: RunningServer, choice: Any, stream: bool
) -> None:
    says(clean, '{"name": "time", "arguments": {"zone": "UTC"}}')
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "tool_choice": choice}
    if stream:
        deltas = [c.choices[0].delta for c in client.chat.completions.create(**asked, stream=True) if c.choices]
        calls = [call for delta in deltas for call in delta.tool_calls or []]
        assert {delta.content for delta in deltas} == {None}
        assert [call.function.name for call in calls if call.id] == ["time"]
        assert len(calls) > 5, "arguments come as they are made"
        assert "".join(call.function.arguments for call in calls) == '{"zone": "UTC"}'
    else:
        (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
        assert (call.function.name, call.function.arguments) == ("time", '{"zone": "UTC"}')


def test_a_bad_tool_is_named(http: httpx.Client) -> None:
    tools = [TOOLS[0], {"type": "function", "function": {"name": "b", "parameters": {"bad": {}}}}]
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "tools": tools, "tool_choice": "required"})
    # The fake grammar of all tools is named "tools:..."; only that of one tool has "bad" in it.
    assert answer.status_code == 200
    tools[1]["function"]["name"] = "bad"
    named = {"type": "function", "function": {"name": "bad"}}
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "tools": tools, "tool_choice": named})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[1].function.parameters"


def test_tool_calls(tools: openai.OpenAI, able: RunningServer) -> None:
    says(able, CALL + CALL_2)
    answer = tools.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    first, second = choice.message.tool_calls
    assert (first.function.name, json.loads(first.function.arguments)) == ("weather", {"city": "Paris"})
    assert second.function.name == "time"
    assert first.id != second.id
    assert "[weather,time,]" in prompt_of(able)
    # A client can send the answer back without changes.
    again = [*MESSAGES, choice.message.model_dump(), {"role": "tool", "content": "warm", "tool_call_id": first.id}]
    says(able, "It is warm")
    assert tools.chat.completions.create(model="tiny", messages=again).choices[0].message.content == "It is warm"


def test_tool_calls_streamed(tools: openai.OpenAI, able: RunningServer) -> None:
    says(able, "Look: " + CALL)
    chunks = list(tools.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, stream=True))
    content = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert content.strip() == "Look:"
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or ()]
    assert deltas[0].id is not None
    assert deltas[0].type == "function"
    assert deltas[0].function is not None
    assert deltas[0].function.name == "weather"
    assert all(d.index == 0 for d in deltas)
    assert json.loads("".join(d.function.arguments or "" for d in deltas if d.function)) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_no_parallel_calls(tools: openai.OpenAI, able: RunningServer, stream: bool) -> None:
    says(able, CALL + CALL_2 + "x" * 100)
    options: dict[str, Any] = {"messages": MESSAGES, "tools": TOOLS, "parallel_tool_calls": False}
    if stream:
        chunks = list(tools.chat.completions.create(model="tiny", stream=True, **options))
        names = [d.function.name for c in chunks for d in c.choices[0].delta.tool_calls or () if d.function and d.id]
        assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["tool_calls"]
    else:
        choice = tools.chat.completions.create(model="tiny", **options).choices[0]
        names = [call.function.name for call in choice.message.tool_calls or ()]
        assert choice.finish_reason == "tool_calls"
    assert names == ["weather"]
    wait_until(lambda: len(able.engine.aborted) == 1)
    wait_until(lambda: able.gateway.admission.live == 0)


def test_tool_choice_none(tools: openai.OpenAI, able: RunningServer) -> None:
    says(able, CALL)
    answer = tools.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].message.tool_calls is None
    assert "weather" not in prompt_of(able)


@pytest.mark.parametrize(
    ("choice", "grammar"),
    [("required", "tools:2:required:True"), ({"type": "function", "function": {"name": "time"}}, "tools:2:time:True")],
)
def test_forced_tools(tools: openai.OpenAI, able: RunningServer, choice: Any, grammar: str) -> None:
    says(able, CALL_2)
    answer = tools.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice=choice)
    assert able.engine.submitted[0].sampling.grammar == grammar
    assert answer.choices[0].finish_reason == "tool_calls"


def test_unknown_named_tool(tools: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tools.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "x"}}
        )
    assert caught.value.param == "tool_choice"


def test_reasoning(tools: openai.OpenAI, able: RunningServer) -> None:
    says(able, "<think>abc</think>Yes")
    answer = tools.chat.completions.create(model="tiny", messages=MESSAGES)
    message = answer.choices[0].message
    assert message.content == "Yes"
    assert message.reasoning_content == "abc"  # type: ignore[attr-defined]
    assert message.reasoning == "abc"  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens in range(18, 21)
    chunks = list(tools.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))
    assert "".join(getattr(c.choices[0].delta, "reasoning_content", "") for c in chunks) == "abc"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Yes"


def test_reasoning_can_be_left_out(tools: openai.OpenAI, able: RunningServer) -> None:
    says(able, "<think>abc</think>Yes")
    hidden: Any = {"model": "tiny", "messages": MESSAGES, "extra_body": {"include_reasoning": False}}
    answer = tools.chat.completions.create(**hidden)
    assert answer.choices[0].message.content == "Yes"
    assert "abc" not in answer.model_dump_json()
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens in range(18, 21)
    chunks = list(tools.chat.completions.create(**hidden, stream=True))
    assert not any(hasattr(chunk.choices[0].delta, "reasoning_content") for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Yes"


def test_no_reasoning_in_a_plain_answer(tools: openai.OpenAI, able: RunningServer) -> None:
    answer = tools.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_defaults_of_the_model(tools: openai.OpenAI, able: RunningServer) -> None:
    tools.chat.completions.create(model="tiny", messages=MESSAGES)
    tools.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0)
    first, second = (stream.sampling for stream in able.engine.submitted)
    assert (first.temperature, first.top_k, first.top_p) == (0.6, 20, 1.0)
    assert (second.temperature, second.top_k) == (0.0, 20)
    prompt = len(able.engine.submitted[0].prompt)
    assert first.max_tokens == 512 - prompt, "a chat may fill the context"


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "json_object"}}, "object"),
        ({"response_format": {"type": "text"}}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}},
            "json:['type']",
        ),
        ({"response_format": {"type": "json_object", "schema": {"a": 1}}}, "json:['a']"),
        ({"response_format": {"type": "json_schema", "schema": {"a": 1}, "strict": True}}, "json:['a']"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}, "x": 1}}}, "json:['a']"),
        ({"json_schema": '{"a": 1}'}, "json:['a']"),
        ({"json_schema": {"a": 1}}, "json:['a']"),
        ({"regex": "a+"}, "regex:a+"),
        ({"guided_json": {"a": 1}}, "json:['a']"),
        ({"guided_json": '{"a": 1}'}, "json:['a']"),
        ({"guided_regex": "a+"}, "regex:a+"),
        ({"guided_grammar": "start: /a/"}, "text:start: /a/"),
        ({"ebnf": 'root ::= "a"'}, 'text:root ::= "a"'),
        ({"grammar": 'root ::= "a"'}, 'text:root ::= "a"'),
        ({"guided_choice": ["a", "b"]}, "choices:a,b"),
        ({"structured_outputs": {"json": {"a": 1}}}, "json:['a']"),
        ({"structured_outputs": {"regex": "a"}}, "regex:a"),
        ({"structured_outputs": {"choice": ["a"]}}, "choices:a"),
        ({"structured_outputs": {"grammar": "g"}}, "text:g"),
        ({"structured_outputs": {"json_object": True}}, "object"),
        ({"structured_outputs": {"json_object": True, "disable_any_whitespace": True}}, "object!"),
        ({"structured_outputs": {"json": {"a": 1}, "disable_any_whitespace": True}}, "json:['a']!"),
        ({"guided_json": {"a": 1}, "structured_outputs": {"disable_any_whitespace": True}}, "json:['a']!"),
        ({"structured_outputs": {"json": {"a": 1}, "disable_additional_properties": True}}, "json:['a']"),
    ],
)
def test_grammars(http: httpx.Client, clean: RunningServer, fields: dict[str, Any], grammar: str | None) -> None:
    assert http.post("/v1/chat/completions", json={"messages": MESSAGES, **fields}).status_code == 200
    assert http.post("/v1/completions", json={"prompt": "a", **fields}).status_code == 200
    assert [stream.sampling.grammar for stream in clean.engine.submitted] == [grammar, grammar]


@pytest.mark.parametrize("value", ["{", "[1]", "1"])
def test_guided_json_text_that_is_not_a_schema(http: httpx.Client, value: str) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "guided_json": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "guided_json"


def test_strict_tools_constrain_an_auto_choice(tools: openai.OpenAI, able: RunningServer) -> None:
    strict: list[Any] = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    tools.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
    tools.chat.completions.create(model="tiny", messages=MESSAGES, tools=strict, parallel_tool_calls=False)
    assert [s.sampling.grammar for s in able.engine.submitted] == [None, "tools:1:auto:False"]


@pytest.mark.parametrize(
    ("choice", "grammar"),
    [
        (None, "tools:2:auto:True|object"),
        ("required", "tools:2:required:True|object"),
        ({"type": "function", "function": {"name": "time"}}, "tools:2:time:True|object"),
        ("none", "object"),
    ],
)
def test_tools_and_a_format(tools: openai.OpenAI, able: RunningServer, choice: Any, grammar: str) -> None:
    fields = {} if choice is None else {"tool_choice": choice}
    format_: Any = {"type": "json_object"}
    for text, calls in ((CALL, 1), ('{"a": 1}', 0)):
        says(able, text)
        answer = tools.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=TOOLS, response_format=format_, **fields
        )
        if choice != "none":
            assert len(answer.choices[0].message.tool_calls or []) == calls
            assert answer.choices[0].message.content == (None if calls else text)
    assert able.engine.submitted[-1].sampling.grammar == grammar
