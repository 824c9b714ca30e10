"""instructor in its common modes."""

from __future__ import annotations

from typing import Annotated, Any

import instructor
import openai
import pytest
from pydantic import BaseModel, Field, SecretStr

MESSAGES: Any = [{"role": "user", "content": "The capital of France is Paris. Extract it."}]


class Answer(BaseModel):
    city: str


class Login(BaseModel):
    user: Annotated[str, Field(max_length=16)]
    password: Annotated[SecretStr, Field(max_length=16)]


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
def test_modes(v1: str, model: str, mode: str) -> None:
    client = instructor.from_openai(
        openai.OpenAI(base_url=v1, api_key="none", max_retries=0), mode=getattr(instructor.Mode, mode)
    )
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, response_model=Answer, temperature=0, max_tokens=200, max_retries=0
    )
    assert isinstance(answer, Answer)


def test_partial(v1: str, model: str) -> None:
    client = instructor.from_openai(openai.OpenAI(base_url=v1, api_key="none", max_retries=0))
    parts = list(
        client.chat.completions.create_partial(
            model=model, messages=MESSAGES, response_model=Answer, temperature=0, max_tokens=200
        )
    )
    assert parts[-1].city


def test_a_format_that_is_an_annotation(v1: str, model: str) -> None:
    client = instructor.from_provider(f"openai/{model}", base_url=v1, api_key="none")
    answer = client.chat.completions.create(
        messages=MESSAGES, response_model=Login, temperature=0, max_tokens=200, max_retries=0
    )
    assert isinstance(answer, Login)
