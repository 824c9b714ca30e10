"""The official client against the server."""

from __future__ import annotations

import openai
from gateway_fakes import RunningServer


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == len(b"<user>Hi\n<assistant>")


def test_chat_stream(client: openai.OpenAI, clean: RunningServer) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12 + len(b"<user>Hi\n<assistant>")


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="Hi", max_tokens=5)
    assert answer.choices[0].text == "Hello"
    assert answer.choices[0].finish_reason == "length"


def test_completion_stream(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="tiny", prompt=["a", "b"], n=2, max_tokens=20, stream=True))
    for index in range(4):
        assert "".join(c.choices[0].text for c in chunks if c.choices[0].index == index) == "Hello world"
