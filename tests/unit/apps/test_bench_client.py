"""The client of the benchmark: with streams in pieces of any size, and with a small server on a real socket."""

import asyncio
import json

import pytest

from fixtures.completions_server import DONE, HEAD, TinyServer, chunked, frame
from gllm.apps.bench.answer import read_answer
from gllm.apps.bench.client import Endpoint, request_bytes
from gllm.apps.bench.payload import Api, Style, body_of
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.serving import find_model, run_requests
from gllm.apps.bench.sse import SseResponse
from gllm.apps.bench.workloads import WORKLOADS, make_requests

USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
ANSWER = (
    HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + chunked(frame("a"), frame("b\r\n") + frame("c", "length"), USAGE + DONE)
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_events_do_not_depend_on_the_pieces_of_the_stream(size: int) -> None:
    response = SseResponse()
    events = [event for at in range(0, len(ANSWER), size) for event in response.feed(ANSWER[at : at + size])]
    assert [json.loads(event)["choices"][0]["text"] for event in events[:3]] == ["a", "b\r\n", "c"]
    assert json.loads(events[3])["usage"]["completion_tokens"] == 5
    assert response.complete


def test_plain_bodies_with_and_without_length() -> None:
    body = frame("x") + DONE
    for header in (b"\r\n", b"Content-Length: %d\r\n\r\n" % len(body)):
        response = SseResponse()
        assert len(response.feed(HEAD + header + body)) == 1
        assert response.complete
    with pytest.raises(ValueError, match="not an HTTP"):
        SseResponse().feed(b"SSH-2.0\r\n\r\n")


def test_chunk_extensions_and_trailers_are_no_body() -> None:
    response = SseResponse()
    body = b"%x;ext=1\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n" % (len(frame("x")), frame("x"))
    assert len(response.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)) == 1
    assert response.complete


def read(*pieces: tuple[float, bytes]) -> RequestRecord:
    record = RequestRecord(index=0, prompt_tokens=1)
    read_answer(list(pieces), 10.0, record)
    return record


def test_record_of_an_answer() -> None:
    head = HEAD + b"\r\n"
    record = read((10.1, head), (10.5, frame("a")), (10.7, frame("bc")), (11.0, frame("d", "length") + USAGE + DONE))
    assert record.ok
    assert record.ttft == pytest.approx(0.5)
    assert record.latency == pytest.approx(1.0)
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (7, 5, "length")
    # Five tokens in three frames: one in the first, two in each of the others.
    assert record.gaps == [(pytest.approx(0.1), 2.0), (pytest.approx(0.15), 2.0)]
    assert record.tpot == pytest.approx(0.5 / 4)


def test_a_closing_frame_is_no_token() -> None:
    record = read((10.5, HEAD + b"\r\n" + frame("a")), (10.7, frame("b")), (10.8, frame("", "stop") + USAGE + DONE))
    assert len(record.pieces) == 2
    assert record.latency == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nbusy", "HTTP 429: busy"),
        (HEAD + b"\r\n" + DONE, "no output"),
        (HEAD + b"\r\n" + frame("a"), "broke off"),
        (HEAD + b"\r\n" + frame("a") + b'data: {"error": {"message": "the engine died"}}\n\n', "the engine died"),
    ],
)
def test_what_counts_as_failed(data: bytes, error: str) -> None:
    assert error in read((10.5, data)).error


def test_without_usage_each_event_counts_as_a_token() -> None:
    record = read((10.5, HEAD + b"\r\n" + frame("a")), (10.7, frame("b", "stop") + DONE))
    assert record.ok
    assert (record.output_tokens, record.counted) == (2, False)


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_the_answer_of_a_chat() -> None:
    def delta(finish: str | None = None, **fields: object) -> bytes:
        return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish, "logprobs": None}], usage=None)

    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}}
    record = read(
        (10.1, HEAD + b"\r\n" + delta(role="assistant", content="")),  # no token yet
        (10.4, delta(reasoning_content="hm")),
        (10.6, delta(content="a")),
        (10.8, delta(tool_calls=[{"index": 0}])),
        (11.0, delta("stop", content="")),
        (11.1, event(choices=[], usage=usage) + DONE),
    )
    assert record.ok
    assert record.ttft == pytest.approx(0.4)
    assert (len(record.pieces), record.output_tokens, record.cached_tokens) == (3, 4, 6)
    assert record.latency == pytest.approx(1.0)


def test_the_answer_of_responses() -> None:
    def typed(kind: str, **fields: object) -> bytes:
        return b"event: " + kind.encode() + b"\n" + event(type=kind, **fields)

    usage = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 0}}
    parts = (
        (10.1, HEAD + b"\r\n" + typed("response.created", response={"status": "in_progress", "error": None})),
        (10.3, typed("response.output_text.delta", delta="a")),
        (10.5, typed("response.output_text.delta", delta="b")),
        (10.6, typed("response.output_text.done", text="ab")),
    )
    record = read(*parts, (10.7, typed("response.incomplete", response={"status": "incomplete", "usage": usage})))
    assert record.ok
    assert (record.ttft, record.output_tokens, record.finish_reason) == (pytest.approx(0.3), 2, "incomplete")
    failed = read(*parts, (10.7, typed("response.failed", response={"error": {"message": "died"}})))
    assert "died" in failed.error
    assert read(*parts).error == "the stream broke off"


@pytest.mark.parametrize("api", ["completions", "chat", "responses"])
def test_bodies(api: Api) -> None:
    request = BenchRequest(0, [], 5, 0.0, messages=[{"role": "user", "content": "Hi"}])
    style = Style(api=api, temperature=0.7, ignore_eos=False, extra_body={"top_p": 0.5, "stream_options": None})
    body = json.loads(body_of(request, "m", style))
    prompt = {"completions": "prompt", "chat": "messages", "responses": "input"}[api]
    limit = "max_output_tokens" if api == "responses" else "max_tokens"
    expected = "user: Hi\nassistant:" if api == "completions" else request.messages
    assert body == {"model": "m", prompt: expected, limit: 5, "temperature": 0.7, "stream": True, "top_p": 0.5}
    sent = request_bytes(
        Endpoint.from_url("http://h:81/v1", api_key="k"), request, Style(api=api, headers={"X-A": "b"})
    )
    assert sent.startswith(f"POST /v1/{'chat/completions' if api == 'chat' else api} HTTP/1.1\r\n".encode())
    assert b"\r\nX-A: b\r\n" in sent


def test_endpoint_from_url() -> None:
    assert Endpoint.from_url("http://h:81/v1/").prefix == ""
    assert Endpoint.from_url("https://h/proxy").port == 443
    assert Endpoint.from_url("https://h/proxy").prefix == "/proxy"
    with pytest.raises(ValueError, match="--url"):
        Endpoint.from_url("ftp://localhost:8000")


def test_against_a_server() -> None:
    server = TinyServer()
    server.fail_every = 5
    requests = make_requests(WORKLOADS["cpu"], 20, seed=1, rate=2000.0)
    done: list[RequestRecord] = []

    async def work(url: str) -> None:
        endpoint = Endpoint.from_url(url, api_key="secret", model="tiny")
        records, duration = await run_requests(endpoint, requests, max_concurrency=3, on_done=done.append)
        assert [record.index for record in records] == list(range(20))
        assert sum(not record.ok for record in records) == 4
        assert all("429" in record.error for record in records if not record.ok)
        for record, request in zip(records, requests, strict=True):
            if record.ok:
                assert record.output_tokens == request.output_len
                assert record.prompt_tokens == len(request.token_ids)
        assert duration > 0

    asyncio.run(server.run(work))
    assert len(done) == 20
    assert server.peak <= 3
    assert server.keys == {b"Authorization: Bearer secret"}
    assert server.bodies[0]["ignore_eos"] is True
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_finding_the_model() -> None:
    async def work(url: str) -> None:
        assert (await find_model(Endpoint.from_url(url))).max_model_len == 600
        assert (await find_model(Endpoint.from_url(url), "tiny")).name == "tiny"
        with pytest.raises(ValueError, match=r"no model 'big'; it has: tiny"):
            await find_model(Endpoint.from_url(url), "big")

    asyncio.run(TinyServer().run(work))
    with pytest.raises(ValueError, match="no server at"):
        asyncio.run(find_model(Endpoint.from_url("http://127.0.0.1:9")))


def test_a_refused_connection_is_a_failed_request() -> None:
    endpoint = Endpoint.from_url("http://127.0.0.1:9", model="m")
    records, _ = asyncio.run(run_requests(endpoint, make_requests(WORKLOADS["cpu"], 1)))
    assert "ConnectionRefused" in records[0].error
