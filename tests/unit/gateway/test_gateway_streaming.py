"""Exact SSE frames, errors after the headers, disconnects, engines that die."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import EOS, RunningServer, wait_until

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
CHAT = {"messages": MESSAGES, "stream": True}
BY_EOS = {"finish_reason": "stop", "stop_reason": None, "matched_stop": EOS}


def frames(answer: httpx.Response) -> list[Any]:
    """Return the data of each event; [DONE] as a string."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-1] == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events[:-1])
    data = [event.removeprefix("data: ") for event in events[:-1]]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def test_chat_shapes(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.reply = lambda *_: [*b"Hi", EOS]
    got = frames(http.post("/v1/chat/completions", json=CHAT))
    assert got[-1] == "[DONE]"
    head = {key: got[0][key] for key in ("id", "object", "created", "model", "system_fingerprint")}
    assert head["id"].startswith("chatcmpl-")
    assert (head["object"], head["model"]) == ("chat.completion.chunk", "tiny")

    def chunk(delta: dict[str, Any], **end: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **end}]}

    assert got[:-1] == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "H"}),
        chunk({"content": "i"}),
        chunk({"content": ""}, **BY_EOS),
    ]


def test_completion_shapes(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.reply = lambda *_: [*b"Hi", EOS]
    got = frames(http.post("/v1/completions", json={"prompt": "a", "stream": True}))
    assert [chunk["object"] for chunk in got[:-1]] == ["text_completion"] * 3
    assert [chunk["choices"] for chunk in got[:-1]] == [
        [{"index": 0, "text": "H", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "i", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "", "logprobs": None, **BY_EOS}],
    ]
    assert all("usage" not in chunk for chunk in got[:-1])


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "a"})])
def test_usage_chunk(http: httpx.Client, clean: RunningServer, path: str, body: dict[str, Any]) -> None:
    clean.engine.cached_tokens = 1
    options = {"stream": True, "stream_options": {"include_usage": True}}
    got = frames(http.post(path, json={**body, **options}))
    assert got[-1] == "[DONE]"
    assert got[-2]["choices"] == []
    usage = got[-2]["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert all(chunk["usage"] is None for chunk in got[:-2])


def test_many_choices(http: httpx.Client, clean: RunningServer) -> None:
    body = {
        "prompt": ["a", "bcd"],
        "n": 3,
        "seed": 2**63 - 1,
        "max_tokens": 30,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    got = frames(http.post("/v1/completions", json=body))
    texts = dict.fromkeys(range(6), "")
    for chunk in got[:-2]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert set(texts.values()) == {"Hello world"}
    assert got[-2]["usage"]["prompt_tokens"] == 4, "a prompt counts once"
    assert got[-2]["usage"]["completion_tokens"] == 72
    seeds = [stream.sampling.seed for stream in clean.engine.submitted]
    assert seeds == [2**63 - 1, -(2**63), -(2**63) + 1] * 2
    assert len({stream.request_id for stream in clean.engine.submitted}) == 6


def test_multibyte_and_merged_tokens(http: httpx.Client, clean: RunningServer) -> None:
    text = '\u00e9\u20ac\U0001f600"\n\\'
    clean.engine.reply = lambda *_: [*text.encode(), EOS]
    for count in (1, 3, 100):
        clean.engine.tokens_per_output = count
        got = frames(http.post("/v1/chat/completions", json=CHAT))
        contents = [c["choices"][0]["delta"].get("content", "") for c in got[:-1]]
        assert "".join(contents) == text
        assert "\ufffd" not in "".join(contents)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [1, 100])
def test_stop_strings(http: httpx.Client, clean: RunningServer, stream: bool, count: int) -> None:
    clean.engine.tokens_per_output = count
    body = {"prompt": "a", "stop": ["wo"], "stream": stream, "max_tokens": 30}
    answer = http.post("/v1/completions", json={**body, "stream_options": {"include_usage": True}} if stream else body)
    if stream:
        got = frames(answer)
        assert "".join(c["choices"][0]["text"] for c in got[:-2]) == "Hello "
        assert got[-3]["choices"][0]["finish_reason"] == "stop"
        usage = got[-2]["usage"]
    else:
        assert answer.json()["choices"][0]["text"] == "Hello "
        assert answer.json()["choices"][0]["finish_reason"] == "stop"
        usage = answer.json()["usage"]
    assert usage["completion_tokens"] == len("Hello wo")
    assert len(clean.engine.live) == 0
    included = http.post("/v1/completions", json={"prompt": "a", "stop": "wo", "include_stop_str_in_output": True})
    assert included.json()["choices"][0]["text"] == "Hello wo"


def test_error_after_headers(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.fail_at = 3
    got = frames(http.post("/v1/chat/completions", json=CHAT))
    assert got[-1]["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(got[-1])
    assert "[DONE]" not in got
    with (
        openai.OpenAI(base_url=f"{clean.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIError),
    ):
        list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))
    wait_until(lambda: clean.gateway.admission.live == 0)


@pytest.mark.parametrize("n", [1, 3])
def test_engine_death(http: httpx.Client, clean: RunningServer, n: int) -> None:
    clean.engine.hold_at = 3
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(
            target=lambda s: answers.append(http.post("/v1/completions", json={"prompt": "a", "n": n, "stream": s})),
            args=(stream,),
        )
        for stream in (False, True)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(s.position == 3 for s in clean.engine.submitted) == 2 * n)
    clean.call(lambda: clean.engine.engine_down("the worker was killed"))
    for thread in threads:
        thread.join(5)
    by_status = {answer.status_code: answer for answer in answers}
    error = by_status[503].json()["error"]
    assert (error["code"], error["type"]) == ("engine_dead", "server_error")
    assert "the worker was killed" in error["message"]
    assert frames(by_status[200])[-1]["error"]["code"] == "engine_dead"
    wait_until(lambda: clean.gateway.admission.live == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hold_at", [0, 3])
@pytest.mark.parametrize("n", [1, 3])
def test_disconnect_aborts(clean: RunningServer, stream: bool, hold_at: int, n: int) -> None:
    engine = clean.engine
    engine.hold_at = hold_at

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=f"{clean.url}/v1", api_key="x", max_retries=0) as client:
            task = asyncio.create_task(
                client.chat.completions.create(model="tiny", messages=MESSAGES, n=n, stream=stream)
            )
            while len(engine.live) < n or any(s.position < hold_at for s in engine.submitted):
                await asyncio.sleep(0.002)
            if stream and hold_at:
                await (await task).response.aclose()
            else:
                task.cancel()

    asyncio.run(leave())
    wait_until(lambda: len(engine.aborted) == n)
    wait_until(lambda: clean.gateway.admission.live == 0)
    assert clean.gateway.admission.waiting_tokens == 0
    assert not engine.live


@pytest.mark.parametrize("hold_at", [0, 3])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/completions", {"prompt": "Hi", "stream": True}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/responses", {"input": "Hi", "stream": True}),
        ("/v1/responses/compact", {"model": "tiny", "input": "Hi"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50, "stream": True}),
        ("/generate", {"text": "Hi"}),
        ("/generate", {"text": "Hi", "stream": True}),
    ],
)
def test_disconnect_aborts_in_every_api(clean: RunningServer, path: str, body: dict[str, Any], hold_at: int) -> None:
    engine = clean.engine
    engine.hold_at = hold_at

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=clean.url) as client:
            task = asyncio.create_task(client.post(path, json=body))
            while not engine.live or any(s.position < hold_at for s in engine.submitted):
                await asyncio.sleep(0.002)
            task.cancel()

    asyncio.run(leave())
    wait_until(lambda: len(engine.aborted) == 1)
    wait_until(lambda: clean.gateway.admission.live == 0)
    assert clean.gateway.admission.waiting_tokens == 0
    assert not engine.live


def test_async_client_in_parallel(clean: RunningServer) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{clean.url}/v1", api_key="x", max_retries=0) as client:

            async def one(number: int) -> str:
                text = ""
                async for chunk in await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": str(number)}], stream=True
                ):
                    text += chunk.choices[0].delta.content or ""
                return text

            return await asyncio.gather(*(one(i) for i in range(40)))

    clean.engine.reply = lambda prompt, _: [*prompt[6:8], EOS]
    assert [text.strip() for text in asyncio.run(ask())] == [str(i) for i in range(40)]
    wait_until(lambda: clean.gateway.admission.live == 0)


TEXT = {"prompt": "Hi", "stream": True}
COUNTED = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)])
@pytest.mark.parametrize("max_tokens", [3, 100])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("logprobs", [{}, {"logprobs": 1}])
def test_continuous_usage(
    http: httpx.Client, path: str, body: dict[str, Any], max_tokens: int, n: int, logprobs: dict[str, Any]
) -> None:
    fields = {"max_tokens": max_tokens, "n": n, "stream_options": COUNTED}
    if logprobs:
        fields["logprobs"] = 1 if path == "/v1/completions" else True
    *chunks, last, done = frames(http.post(path, json={**body, **fields}))
    assert (done, last["choices"]) == ("[DONE]", [])
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"]
    for chunk in [*chunks, last]:
        assert chunk["usage"]["total_tokens"] == chunk["usage"]["prompt_tokens"] + chunk["usage"]["completion_tokens"]
    assert len(set(counts)) == 1 + last["usage"]["completion_tokens"] - ("text" in chunks[0]["choices"][0])
    if n == 1:
        with_tokens = [chunk for chunk in chunks if "role" not in chunk["choices"][0].get("delta", {})]
        assert [chunk["usage"]["completion_tokens"] for chunk in with_tokens] == list(range(1, len(with_tokens) + 1))
        assert chunks[-1]["choices"][0]["finish_reason"] is not None


@pytest.mark.parametrize(
    ("options", "in_chunks", "at_end"),
    [
        ({"continuous_usage_stats": True}, True, True),
        ({"continuous_usage_stats": True, "include_usage": False}, False, False),
        ({"continuous_usage_stats": False, "include_usage": True}, False, True),
        ({"continuous_usage_stats": None}, False, False),
    ],
)
def test_when_usage_is_continuous(http: httpx.Client, options: dict[str, Any], in_chunks: bool, at_end: bool) -> None:
    *chunks, last, _ = frames(http.post("/v1/chat/completions", json={**CHAT, "stream_options": options}))
    assert all((chunk.get("usage") is not None) == in_chunks for chunk in chunks)
    assert (last["choices"] == []) == at_end
