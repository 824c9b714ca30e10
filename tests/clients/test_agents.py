"""openai-agents with its default model class (Responses) and with chat completions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
SETTINGS = ModelSettings(temperature=0, max_tokens=150)


class Answer(BaseModel):
    city: str


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def agent(request: pytest.FixtureRequest, v1: str, model: str) -> Callable[..., Agent[Any]]:
    def make(**more: Any) -> Agent[Any]:
        client = AsyncOpenAI(base_url=v1, api_key="none", max_retries=0)
        settings = more.pop("model_settings", SETTINGS)
        return Agent(name="a", model=request.param(model=model, openai_client=client), model_settings=settings, **more)

    return make


def test_plain(agent: Callable[..., Agent[Any]]) -> None:
    result = asyncio.run(Runner.run(agent(), "What is the capital of France?"))
    assert "Paris" in result.final_output


def test_streamed(agent: Callable[..., Agent[Any]]) -> None:
    async def run() -> str:
        result = Runner.run_streamed(agent(), "What is the capital of France?")
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    assert "Paris" in asyncio.run(run())


def test_a_required_tool_is_called(agent: Callable[..., Agent[Any]]) -> None:
    settings = SETTINGS.resolve(ModelSettings(tool_choice="required"))
    worker = agent(tools=[get_weather], model_settings=settings, tool_use_behavior="stop_on_first_tool")
    result = asyncio.run(Runner.run(worker, "What is the weather in Rome?"))
    assert result.final_output.startswith("sunny in ")


def test_an_output_type_beside_tools(agent: Callable[..., Agent[Any]]) -> None:
    worker = agent(tools=[get_weather], output_type=Answer)
    # Such a small model may call its tool again and again, but no request may be refused and no answer malformed.
    with contextlib.suppress(MaxTurnsExceeded):
        result = asyncio.run(Runner.run(worker, "Name the capital of France.", max_turns=3))
        assert isinstance(result.final_output, Answer)


def test_settings_that_are_hints(agent: Callable[..., Agent[Any]]) -> None:
    settings = SETTINGS.resolve(ModelSettings(store=True, verbosity="low", metadata={"a": "b"}))
    assert asyncio.run(Runner.run(agent(model_settings=settings), "Hi")).final_output
