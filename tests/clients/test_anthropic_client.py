"""The official anthropic package."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}
"""Newer clients have no argument for this."""
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def client(server: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server, api_key="none", max_retries=0)


def test_message_whole_and_streamed_are_the_same(client: anthropic.Anthropic, model: str) -> None:
    whole = client.messages.create(model=model, max_tokens=24, messages=MESSAGES, extra_body=GREEDY)
    with client.messages.stream(model=model, max_tokens=24, messages=MESSAGES, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "Paris" in text
    assert text == whole.content[0].text  # type: ignore[union-attr]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_stop_sequences(client: anthropic.Anthropic, model: str) -> None:
    answer = client.messages.create(
        model=model, max_tokens=24, messages=MESSAGES, extra_body=GREEDY, stop_sequences=["Paris"]
    )
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris")


def test_a_system_text_is_seen(client: anthropic.Anthropic, model: str) -> None:
    short = client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens
    assert client.messages.count_tokens(model=model, messages=MESSAGES, system="Be brief. " * 50).input_tokens > short


def test_a_tool_is_called_and_answered(client: anthropic.Anthropic, model: str) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    answer = client.messages.create(
        model=model, max_tokens=100, messages=messages, tools=[WEATHER], tool_choice={"type": "any"}, extra_body=GREEDY
    )
    call: Any = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use"
    assert set(call.input) == {"city"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(model=model, max_tokens=8, messages=messages, tools=[WEATHER]).content


def test_count_tokens(client: anthropic.Anthropic, model: str) -> None:
    counted = client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens
    usage = client.messages.create(model=model, max_tokens=1, messages=MESSAGES).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_its_own(client: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude-none", max_tokens=1, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=model, max_tokens=0, messages=MESSAGES)
