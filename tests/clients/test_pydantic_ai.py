"""pydantic-ai over chat completions and responses."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

SETTINGS: Any = {"temperature": 0, "max_tokens": 150}


class Answer(BaseModel):
    city: str


@pytest.fixture(params=["chat", "responses"])
def made(request: pytest.FixtureRequest, v1: str, model: str) -> Any:
    kind = OpenAIChatModel if request.param == "chat" else OpenAIResponsesModel
    return kind(model, provider=OpenAIProvider(base_url=v1, api_key="none"))


def test_text(made: Any) -> None:
    assert "Paris" in Agent(made, model_settings=SETTINGS).run_sync("What is the capital of France?").output


def test_tool_output(made: Any) -> None:
    agent = Agent(made, output_type=ToolOutput(Answer), model_settings=SETTINGS, retries=2)
    assert isinstance(agent.run_sync("Name the capital of France.").output, Answer)


def test_native_output_beside_a_tool(made: Any) -> None:
    agent = Agent(made, output_type=NativeOutput(Answer), model_settings=SETTINGS, retries=2)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    # Such a small model may call its tool again and again, but no request may be refused and no answer malformed.
    with contextlib.suppress(UsageLimitExceeded):
        limits = UsageLimits(request_limit=3)
        assert isinstance(agent.run_sync("Name the capital of France.", usage_limits=limits).output, Answer)
