"""Messages and tools in the forms that clients send, and the template's input from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateway_fakes import RunningServer, make_server, served_model

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.message_schema import template_messages
from gllm.text.templates.chat_template import ChatTemplate

USER = {"role": "user", "content": "Hi"}


def shown(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return template_messages(ChatRequest.model_validate({"messages": list(messages)}).messages)


@pytest.mark.parametrize(
    "content",
    [
        "ab",
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b", "annotations": []}],
        [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "refusal", "refusal": "b"}],
        ["a", {"text": "b"}],
    ],
)
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "critic"])
def test_text_in_every_form(role: str, content: Any) -> None:
    assert shown({"role": role, "content": content}) == [{"role": role, "content": "ab"}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://a"}},
        {"type": "input_image", "image_url": "http://a"},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "video_url", "video_url": {"url": "http://a"}},
        {"type": 5},
    ],
)
def test_other_parts_are_refused(http: httpx.Client, part: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "a"}, part]
    answer = http.post("/v1/chat/completions", json={"messages": [USER, {"role": "user", "content": content}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].content[1]"
    assert "this server reads text only" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_an_assistant_or_a_tool_may_have_no_content(content: dict[str, Any]) -> None:
    for role in ("assistant", "tool", "function"):
        (message,) = shown({"role": role, **content})
        assert not message["content"]


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_other_roles_need_content(http: httpx.Client, role: str) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": [{"role": role, "content": None}]})
    assert answer.json()["error"]["param"] == "messages[0]"
    assert f"a message of role '{role}' needs content" in answer.json()["error"]["message"]


def test_unknown_keys_are_ignored() -> None:
    echoed = {
        "role": "assistant",
        "content": "Hello",
        "id": "m1",
        "reasoning_details": [{"type": "x"}],
        "audio": {"id": "a"},
        "provider_specific_fields": {"a": 1},
        "refusal": None,
        "annotations": [{"type": "url_citation"}],
        "function_call": None,
        "tool_calls": None,
        "opts": {"visible": True},
        "cache_control": {"type": "ephemeral"},
    }
    assert shown(USER, echoed) == [USER, {"role": "assistant", "content": "Hello"}]


def test_reasoning_goes_back() -> None:
    for field in ("reasoning", "reasoning_content"):
        (message,) = shown({"role": "assistant", "content": "a", field: "because"})
        assert message["reasoning_content"] == "because"
    assert "reasoning_content" not in shown({"role": "assistant", "content": "a", "reasoning": {"effort": "low"}})[0]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
        {"type": "reasoning", "text": "hm"},
    ],
)
def test_parts_that_are_reasoning(part: dict[str, Any]) -> None:
    parts = [part, {"type": "text", "text": "Hello"}]
    (message,) = shown({"role": "assistant", "content": parts})
    assert message == {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}
    (message,) = shown({"role": "assistant", "content": parts, "reasoning_content": "so"})
    assert (message["content"], message["reasoning_content"]) == ("Hello", "so")


@pytest.mark.parametrize("nothing", [{}, [], "", None])
def test_empty_calls_in_every_form(nothing: Any) -> None:
    echoed = {"role": "assistant", "content": "Hello", "tool_calls": nothing, "function_call": nothing}
    assert shown(echoed) == [{"role": "assistant", "content": "Hello"}]


def test_ids_of_calls_may_be_long() -> None:
    call = {"id": "c" * 5000, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked, result = shown(
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "r"},
    )
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"] == call["id"]


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize("named", [NAMED, {"type": "function", "name": "g"}])
def test_choices_of_tools_in_every_form(named: dict[str, Any]) -> None:
    def asked(choice: Any) -> ChatRequest:
        return ChatRequest.model_validate({"messages": [USER], "tools": TOOLS, "tool_choice": choice})

    assert asked(named) == asked(NAMED)
    allowed = {"mode": "required", "tools": [named]}
    for choice in ({"type": "allowed_tools", "allowed_tools": allowed}, {"type": "allowed_tools", **allowed}):
        request = asked(choice)
        assert [tool.function.name for tool in request.tools or ()] == ["g"]
        assert request.tool_choice == "required"


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"mode": "required", "tools": [{"type": "function", "function": {"name": "h"}}]}, "no tool named 'h'"),
        ({"mode": "always", "tools": [NAMED]}, "'mode'"),
        ({"mode": "auto", "tools": []}, "'tools'"),
        (5, "'tools'"),
    ],
)
def test_allowed_tools_that_are_not_offered(http: httpx.Client, allowed: Any, message: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = http.post("/v1/chat/completions", json={"messages": [USER], "tools": TOOLS, "tool_choice": choice})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")
    assert message in answer.json()["error"]["message"]


def test_a_refusal_is_the_text() -> None:
    assert shown({"role": "assistant", "content": None, "refusal": "No."})[0]["content"] == "No."
    assert shown({"role": "assistant", "content": "Yes.", "refusal": "No."})[0]["content"] == "Yes."


@pytest.mark.parametrize("arguments", ['{"a": 1}', '{"city": "Par', "", "null", "[]", "  ", {"a": 1}, ["a"], 5])
def test_arguments_are_not_changed(arguments: Any) -> None:
    call = {"id": "c1", "type": "function", "index": 0, "function": {"name": "f", "arguments": arguments, "x": 1}}
    (message,) = shown({"role": "assistant", "tool_calls": [call]})
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    ]


def test_calls_without_id_and_of_custom_tools() -> None:
    (message,) = shown(
        {
            "role": "assistant",
            "tool_calls": [
                {"function": {"name": "odd name"}},
                {"id": "c", "type": "custom", "custom": {"name": "g", "input": "text"}},
            ],
        }
    )
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "odd name", "arguments": ""}},
        {"id": "c", "type": "function", "function": {"name": "g", "arguments": {"input": "text"}}},
    ]


def test_the_older_form_of_calls() -> None:
    call, result, again = shown(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "warm"},
        {"role": "assistant", "content": "a", "function_call": ""},
    )
    (made,) = call["tool_calls"]
    assert made["function"] == {"name": "f", "arguments": "{}"}
    assert result == {"role": "tool", "name": "f", "content": "warm", "tool_call_id": made["id"]}
    assert made["id"].isalnum()
    assert len(made["id"]) == 9
    assert again == {"role": "assistant", "content": "a"}


def test_tools_with_unknown_keys() -> None:
    tool = {
        "function": {"name": "f", "description": "d" * 20000, "parameters": {"type": "object", "x": None}, "y": 1},
        "cache_control": {"type": "ephemeral"},
    }
    request = ChatRequest.model_validate(
        {
            "messages": [USER],
            "tools": [tool],
            "tool_choice": {"type": "function", "function": {"name": "f", "z": 1}, "w": 1},
        }
    )
    assert request.tools is not None
    assert request.tools[0].model_dump(exclude_none=True) == {
        "type": "function",
        "function": {"name": "f", "description": "d" * 20000, "parameters": {"type": "object", "x": None}},
    }


TEMPLATE = (
    "{% for m in messages %}{{ m.role }}{% endfor %}"
    "{% if reasoning_effort is defined %} effort={{ reasoning_effort }}{% endif %}"
    "{% if enable_thinking is defined and enable_thinking is false %} thoughtless{% endif %}"
    "{% if own_switch is defined %} switch={{ own_switch }}{% endif %}"
)


@pytest.fixture(scope="module")
def thinker() -> Iterator[RunningServer]:
    model = served_model()
    template = ChatTemplate(TEMPLATE, model.tokenizer)  # type: ignore[arg-type]  # the real one
    with make_server(model=served_model(template=template)) as server:
        yield server


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "user"),
        ({"reasoning_effort": "low"}, "user effort=low"),
        ({"reasoning_effort": "none"}, "user effort=none thoughtless"),
        ({"reasoning_effort": None}, "user"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, "user effort=none"),
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, "user effort=high"),
        ({"chat_template_kwargs": {"own_switch": 1, "no_switch": 2, "raise_exception": 3}}, "user switch=1"),
        ({"chat_template_kwargs": {"own_switch": None, "self": 1, "x y": 1}}, "user switch=None"),
    ],
)
def test_arguments_of_the_template(thinker: RunningServer, fields: dict[str, Any], text: str) -> None:
    thinker.engine.reset()
    answer = httpx.post(f"{thinker.url}/v1/chat/completions", json={"messages": [USER], **fields})
    assert answer.status_code == 200, answer.text
    assert bytes(thinker.engine.submitted[-1].prompt).decode() == text


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "chat_template", "bos_token"])
def test_reserved_template_arguments(thinker: RunningServer, name: str) -> None:
    body = {"messages": [USER], "chat_template_kwargs": {name: "a"}}
    error = httpx.post(f"{thinker.url}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "chat_template_kwargs"
    assert name in error["message"]
