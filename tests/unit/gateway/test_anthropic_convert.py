"""Conversion of Anthropic's messages, tools and settings to a chat."""

from __future__ import annotations

from typing import Any

import pytest

from gllm.gateway.api.messages.message_chat import MessagesChat, chat_of
from gllm.gateway.protocol.anthropic_schema import MessagesRequest
from gllm.gateway.protocol.message_schema import template_messages

CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, {"b": None}]}}


def chat(**fields: Any) -> MessagesChat:
    return chat_of(MessagesRequest.model_validate({"max_tokens": 9, **fields}))


def shown(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return template_messages(chat(messages=list(messages), **fields).messages)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}, "citations": None, **more}


def test_texts() -> None:
    assert shown(user("a"), assistant("b"), user([text("c"), text("d")])) == [user("a"), assistant("b"), user("c\nd")]


@pytest.mark.parametrize("system", ["Be kind", [text("Be"), text("kind")]])
def test_system(system: Any) -> None:
    expected = "Be kind" if isinstance(system, str) else "Be\nkind"
    assert shown(user("a"), system=system) == [{"role": "system", "content": expected}, user("a")]


def test_system_messages_keep_their_place_and_the_first_join_system() -> None:
    one, two = {"role": "system", "content": "one"}, {"role": "system", "content": [text("two")]}
    assert shown(one, user("a"), two, user("b"), system="zero") == [
        {"role": "system", "content": "zero\none"},
        user("a"),
        {"role": "system", "content": "two"},
        user("b"),
    ]


def test_billing_header_is_removed() -> None:
    system = [text("x-anthropic-billing-header: cc_version=1; cch=ab12c;"), text("Be kind")]
    assert shown(user("a"), system=system)[0]["content"] == "Be kind"
    assert shown(user("a"), system=system[:1]) == [user("a")]
    whole = "x-anthropic-billing-header: cch=1;\nBe kind"
    assert shown(user("a"), system=whole)[0]["content"] == whole


def test_turns_of_one_role_are_one() -> None:
    assert shown(user("a"), user([text("b")]), assistant("c"), assistant("d"), user("e")) == [
        user("a\nb"),
        assistant("c\nd"),
        user("e"),
    ]


def test_tool_calls_and_results() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("1"), text("2")]}
    failed = {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such city", "is_error": True}
    empty = {"type": "tool_result", "tool_use_id": "toolu_3"}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    assert shown(
        user("a"), assistant([hidden, thought, text("look"), CALL]), user([text("and?"), result, failed, empty])
    ) == [
        user("a"),
        {
            "role": "assistant",
            "content": "look",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": {"a": [1, {"b": None}]}}}
            ],
        },
        {"role": "tool", "content": "1\n2", "tool_call_id": "toolu_1"},
        {"role": "tool", "content": "Error: no such city", "tool_call_id": "toolu_2"},
        {"role": "tool", "content": "", "tool_call_id": "toolu_3"},
        user("and?"),
    ]


def test_result_whose_call_is_named_by_id() -> None:
    result = {"type": "tool_result", "id": "toolu_1", "content": "8"}
    assert shown(user("a"), assistant([CALL]), user([result]))[2]["tool_call_id"] == "toolu_1"


def test_call_without_text() -> None:
    assert shown(user("a"), assistant([CALL]), user("b"))[1]["content"] is None


@pytest.mark.parametrize(
    ("last", "is_prefill"),
    [
        (user("a"), False),
        (assistant("The answer is ("), True),
        (assistant([text("The"), text("answer")]), True),
        (assistant([CALL]), False),
        (assistant([text("look"), CALL]), False),
        (assistant(""), False),
        (assistant([]), False),
    ],
)
def test_prefill(last: dict[str, Any], is_prefill: bool) -> None:
    made = chat(messages=[user("a"), last])
    assert bool(made.continue_final_message) == is_prefill
    if last["content"] in ("", []):
        assert len(made.messages) == 1


def test_tools() -> None:
    tool = {
        "name": "f",
        "description": "d",
        "input_schema": {"type": "object"},
        "strict": True,
        "input_examples": [{}],
        "cache_control": {"type": "ephemeral"},
        "eager_input_streaming": True,
    }
    made = chat(messages=[user("a")], tools=[tool])
    assert made.tools is not None
    (spec,) = made.tools
    assert spec.function.model_dump() == {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
        "strict": True,
    }


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice(choice: dict[str, Any], expected: Any) -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    made = chat(messages=[user("a")], tools=tools, tool_choice={**choice, "disable_parallel_tool_use": True})
    assert made.model_dump()["tool_choice"] == expected
    assert made.parallel_tool_calls is False


def test_choice_without_tools() -> None:
    for kind in ("auto", "none"):
        assert not chat(messages=[user("a")], tool_choice={"type": kind}, tools=[]).uses_tools


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, None),
        ({"type": "enabled", "budget_tokens": 1024, "display": "summarized"}, True),
        ({"type": "adaptive"}, True),
        ({"type": "disabled"}, False),
    ],
)
def test_thinking(thinking: dict[str, Any] | None, expected: bool | None) -> None:
    kwargs = chat(messages=[user("a")], thinking=thinking).chat_template_kwargs or {}
    assert kwargs.get("enable_thinking") is expected
    own = chat(messages=[user("a")], thinking=thinking, chat_template_kwargs={"enable_thinking": False})
    assert own.chat_template_kwargs is not None
    assert own.chat_template_kwargs["enable_thinking"] is False


@pytest.mark.parametrize(("effort", "expected"), [("low", "low"), ("xhigh", "high"), ("max", "high")])
def test_effort(effort: str, expected: str) -> None:
    assert chat(messages=[user("a")], output_config={"effort": effort}).reasoning_effort == expected
