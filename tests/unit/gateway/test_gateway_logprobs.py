"""Log-probabilities in OpenAI's formats, `echo`, and vLLM's `prompt_logprobs`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import EOS, RunningServer, byte_tokenizer

from gllm.gateway.protocol.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs
from gllm.wire.messages import TokenLogprob

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
LOWEST = -9999.0


@pytest.fixture(autouse=True)
def says_ab(clean: RunningServer) -> None:
    clean.engine.reply = lambda *_: [*b"ab", EOS]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["a", "b", "<eos>"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    first = logprobs.content[0]
    assert (first.logprob, first.bytes) == (-0.5, [97])
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("a", -0.5), ("z", LOWEST)]


def test_chat_without(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="tiny", messages=MESSAGES).choices[0].logprobs is None


def test_chat_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, stream=True))
    entries = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content or ()]
    assert [entry.token for entry in entries] == ["a", "b", "<eos>"]
    assert chunks[-1].choices[0].logprobs is not None, "the last chunk has that of EOS"
    assert all(entry.top_logprobs == [] for entry in entries)


def test_top_logprobs_needs_logprobs(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": MESSAGES, "top_logprobs": 1})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "top_logprobs"


def test_completion(client: openai.OpenAI) -> None:
    logprobs = client.completions.create(model="tiny", prompt="xy", logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b", "<eos>"]
    assert logprobs.token_logprobs == [-0.5, -0.5, -0.5]
    assert logprobs.top_logprobs == [{token: -0.5, "z": LOWEST} for token in ("a", "b", "<eos>")]
    assert logprobs.text_offset == [0, 1, 2]


@pytest.mark.parametrize("prompt", ["xyz", [120, 121, 122]])
def test_echo(client: openai.OpenAI, prompt: Any) -> None:
    choice = client.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=1).choices[0]
    assert choice.text == "xyzab"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["x", "y", "z", "a", "b", "<eos>"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5, -0.5, -0.5, -0.5]
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_scoring_only(client: openai.OpenAI, clean: RunningServer, stream: bool) -> None:
    answer: Any = client.completions.create(
        model="tiny", prompt=["xyz", "q"], echo=True, logprobs=0, max_tokens=0, stream=stream
    )
    parts = [choice for piece in (answer if stream else [answer]) for choice in piece.choices]
    parts.sort(key=lambda choice: choice.index)
    assert [part.text for part in parts] == ["xyz", "q"]
    assert parts[0].logprobs.tokens == ["x", "y", "z"]
    assert parts[0].finish_reason == "length"
    if not stream:
        assert answer.usage.completion_tokens == 0
    assert clean.engine.submitted[0].sampling.max_tokens == 0


def test_echo_without_logprobs(client: openai.OpenAI, clean: RunningServer) -> None:
    assert client.completions.create(model="tiny", prompt="xyz", echo=True).choices[0].text == "xyzab"
    assert clean.engine.submitted[0].sampling.prompt_logprobs is None


def test_echo_stream(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="tiny", prompt=["x", "y"], n=2, echo=True, stream=True))
    for index, text in enumerate(["xab", "xab", "yab", "yab"]):
        assert "".join(c.choices[0].text for c in chunks if c.choices[0].index == index) == text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_prompt_logprobs(http: httpx.Client, path: str) -> None:
    body = {"prompt": "xy"} if path == "/v1/completions" else {"messages": MESSAGES}
    answer = http.post(path, json={**body, "prompt_logprobs": 1}).json()
    got = (answer["choices"][0] if path == "/v1/completions" else answer)["prompt_logprobs"]
    assert got[0] is None
    token = "y" if path == "/v1/completions" else "u"
    assert got[1] == {str(ord(token)): {"logprob": -0.5, "rank": 1, "decoded_token": token}}
    refused = http.post(path, json={**body, "prompt_logprobs": 1, "stream": True})
    assert refused.json()["error"]["param"] == "prompt_logprobs"


def test_minus_infinity_is_a_number_in_json(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "xy", "prompt_logprobs": 2, "logprobs": 2})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(answer.text, parse_constant=refuse)


def test_the_token_itself_comes_first() -> None:
    tokenizer = byte_tokenizer()
    entry = TokenLogprob(token_id=ord("x"), logprob=-3.0, rank=9, top=[(ord("a"), -0.1), (ord("b"), -0.2)])
    names = TokenNames(tokenizer, as_ids=False)
    [top] = CompletionLogprobs(tokenizer, names, skip_special_tokens=True).answer([entry])["top_logprobs"]
    assert list(top.items()) == [("x", -3.0), ("a", -0.1), ("b", -0.2)]
    [shown] = prompt_logprobs([entry], tokenizer)
    assert shown is not None
    assert [(one["decoded_token"], one["rank"]) for one in shown.values()] == [("x", 9), ("a", 1), ("b", 2)]
