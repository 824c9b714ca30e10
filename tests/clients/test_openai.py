"""The official openai package."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    name: str
    size: Literal["small", "large"]
    twin: Literal["Rome"] | None = None


@pytest.fixture(scope="module")
def client(v1: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=v1, api_key="none", max_retries=0)


def test_models(client: openai.OpenAI, model: str) -> None:
    assert [entry.id for entry in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model


def test_chat_whole_and_streamed_are_equal(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=24)
    stream = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert "Paris" in text
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_an_answer_is_accepted_as_history(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=24)
    again = [*MESSAGES, first.choices[0].message.model_dump(), {"role": "user", "content": "And of Italy?"}]
    assert client.chat.completions.create(model=model, messages=again, max_tokens=8).choices[0].message.content


def test_parse_gives_the_class(client: openai.OpenAI, model: str) -> None:
    messages: Any = [{"role": "user", "content": "Describe Paris as JSON."}]
    answer = client.chat.completions.parse(
        model=model, messages=messages, response_format=City, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, City)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_tool_is_called(client: openai.OpenAI, model: str, choice: Any) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[WEATHER], tool_choice=choice, temperature=0, max_tokens=100
    )
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    loop = [
        *messages,
        answer.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert client.chat.completions.create(model=model, messages=loop, tools=[WEATHER], max_tokens=8).choices


def test_tools_with_a_response_format(client: openai.OpenAI, model: str) -> None:
    schema = {"name": "city", "schema": City.model_json_schema()}
    answer = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        tools=[WEATHER],
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    message = answer.choices[0].message
    if not message.tool_calls:
        City.model_validate_json(message.content or "")


def test_responses_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    question = "What is the capital of France?"
    whole = client.responses.create(model=model, input=question, temperature=0, max_output_tokens=24)
    assert "Paris" in whole.output_text
    with client.responses.stream(model=model, input=question, temperature=0, max_output_tokens=24) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    follow = client.responses.create(
        model=model, input="And of Italy?", previous_response_id=whole.id, max_output_tokens=8
    )
    assert follow.previous_response_id == whole.id


def test_missing_routes_and_models_are_named(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match="embeddings"):
        client.embeddings.create(model=model, input="x")
    with pytest.raises(openai.NotFoundError, match="gpt-4o"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def test_concurrent_requests(v1: str, model: str) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=v1, api_key="none", max_retries=0) as client:
            calls = [
                client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=8)
                for _ in range(10)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert len(set(asyncio.run(ask()))) == 1
