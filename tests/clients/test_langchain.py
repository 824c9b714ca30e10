"""langchain-openai."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

QUESTION = "What is the capital of France?"


class Answer(BaseModel):
    """An answer."""

    city: str


def make(v1: str, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=v1, api_key="none", model=model, temperature=0, max_tokens=150, max_retries=0, **more)


@pytest.mark.parametrize("responses", [False, True])
def test_invoke_and_stream(v1: str, model: str, responses: bool) -> None:
    chat = make(v1, model, use_responses_api=responses)
    whole = chat.invoke(QUESTION)
    assert "Paris" in whole.text
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == whole.text


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_structured_output(v1: str, model: str, method: Any) -> None:
    chat = make(v1, model).with_structured_output(Answer, method=method, include_raw=True)
    answer: Any = chat.invoke('Name the capital of France as JSON like {"city": "Rome"}.')
    assert answer["parsing_error"] is None
    assert isinstance(answer["parsed"], Answer)


def test_tools_beside_a_response_format(v1: str, model: str) -> None:
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return city

    bound = make(v1, model).bind_tools([get_weather], response_format=Answer, strict=True)
    answer = bound.invoke(QUESTION)
    assert answer.tool_calls or Answer.model_validate_json(answer.text)


def test_a_bound_tool_is_called(v1: str, model: str) -> None:
    answer = make(v1, model).bind_tools([Answer], tool_choice="any").invoke(QUESTION)
    assert [call["name"] for call in answer.tool_calls] == ["Answer"]
    assert set(answer.tool_calls[0]["args"]) == {"city"}


def test_reasoning_effort_from_a_global_setting(v1: str, model: str) -> None:
    assert make(v1, model, reasoning_effort="low").invoke(QUESTION).text


def test_completions(v1: str, model: str) -> None:
    llm = OpenAI(base_url=v1, api_key="none", model=model, temperature=0, max_tokens=8)
    assert "".join(llm.stream("The capital of France is")) == llm.invoke("The capital of France is")
