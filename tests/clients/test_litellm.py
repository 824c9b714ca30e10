"""litellm: its OpenAI and vLLM providers, and its bridges to responses and to Anthropic's messages."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(params=["openai", "hosted_vllm"])
def common(request: pytest.FixtureRequest, v1: str, model: str) -> dict[str, Any]:
    return {"model": f"{request.param}/{model}", "api_base": v1, "api_key": "none", "temperature": 0, "num_retries": 0}


def test_whole_and_streamed(common: dict[str, Any]) -> None:
    whole = litellm.completion(messages=MESSAGES, max_tokens=24, **common)
    stream = litellm.completion(messages=MESSAGES, max_tokens=24, stream=True, **common)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert "Paris" in text
    assert text == whole.choices[0].message.content


def test_hints_that_it_forwards(common: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "content": content}]
    answer = litellm.completion(messages=messages, max_tokens=4, reasoning_effort="low", drop_params=True, **common)
    assert answer.choices[0].message.content


@pytest.mark.parametrize("limit", [3, 100])
def test_a_tool_loop_survives_a_call_that_was_cut_off(common: dict[str, Any], limit: int) -> None:
    more = {**common, "tools": [WEATHER]}
    first = litellm.completion(messages=MESSAGES, tool_choice="required", max_tokens=limit, **more)
    message = first.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls or ()]
    history = [*MESSAGES, message.model_dump(), *results, {"role": "user", "content": "Go on."}]
    assert litellm.completion(messages=history, max_tokens=4, **common).choices


def test_text_completion(v1: str, model: str) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{model}",
        prompt="The capital of France is",
        api_base=v1,
        api_key="none",
        max_tokens=8,
        temperature=0,
    )
    assert "Paris" in answer.choices[0].text


def test_responses(v1: str, model: str) -> None:
    answer: Any = litellm.responses(
        model=f"openai/{model}",
        input="What is the capital of France?",
        api_base=v1,
        api_key="none",
        max_output_tokens=24,
        temperature=0,
    )
    assert "Paris" in answer.output[0].content[0].text


def test_anthropic_messages(server: str, v1: str, model: str) -> None:
    for name, base in ((f"openai/{model}", v1), (f"anthropic/{model}", server)):
        answer: Any = asyncio.run(
            litellm.anthropic.messages.acreate(
                model=name, messages=MESSAGES, max_tokens=24, api_base=base, api_key="none", temperature=0
            )
        )
        assert "Paris" in answer["content"][0]["text"]
