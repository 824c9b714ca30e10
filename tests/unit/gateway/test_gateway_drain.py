"""A drain over real sockets: clients that keep their connections lose no request."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future

import httpx
import openai
import pytest
from gateway_fakes import RunningServer, wait_until
from test_gateway_half_close import connect, post, rest

from gllm.gateway.http import uvicorn_drain

BODY = {"prompt": "a"}
URL = "/v1/completions"
Start = Callable[..., RunningServer]


@pytest.fixture(autouse=True)
def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_drain, "IDLE_SECONDS", 0.3)


def drain(server: RunningServer, delay: float = 60.0) -> Future[None]:
    """Begin to drain. The result is there when the drain has ended."""
    assert server.engine.loop is not None
    ended = asyncio.run_coroutine_threadsafe(server.uvicorn.drain(delay), server.engine.loop)
    wait_until(lambda: server.uvicorn._drain_state.begun)
    server.gateway.draining = True
    return ended


def hold(server: RunningServer, position: int | None) -> None:
    server.call(lambda: setattr(server.engine, "hold_at", position))


def one_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head and the body of an answer with a Content-Length."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(1)
        assert part, received
        received += part
    length = int(received.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    body = b""
    while len(body) < length:
        part = connection.recv(length - len(body))
        assert part, body
        body += part
    return received, body


def text(body: bytes) -> str:
    answer: str = json.loads(body)["choices"][0]["text"]
    return answer


def test_old_connections_are_served_while_a_long_stream_runs(start: Start) -> None:
    server = start()
    hold(server, 1)
    with connect(server) as long, connect(server) as kept:
        long.sendall(post(URL, {**BODY, "stream": True}))
        wait_until(lambda: len(server.engine.live) == 1)
        assert b"connection" not in long.recv(4096).lower()
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"connection: close" not in one_answer(kept)[0]
        ended = drain(server, delay=0.0)
        kept.sendall(post(URL, BODY))
        wait_until(lambda: len(server.engine.live) == 2)
        assert not ended.done()
        hold(server, None)
        head, body = one_answer(kept)
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"\r\nconnection: close\r\n" in head
        assert text(body) == "Hello world"
        assert kept.recv(1) == b""
        assert rest(long).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "it closes when it is idle"
    ended.result(5)
    assert not server.engine.aborted


def test_kept_connections_of_clients(start: Start) -> None:
    """httpx, and the official client without retries, go on without an error until new connections are late."""
    server = start()
    with httpx.Client() as http, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as official:
        for request in range(6):
            if request == 2:
                drain(server)
            answer = http.post(f"{server.url}{URL}", json=BODY)
            assert (answer.status_code, answer.headers.get("connection")) == (200, "close" if request >= 2 else None)
            assert official.completions.create(model="tiny", prompt="a").choices[0].text == "Hello world"


def test_idle_connections_are_closed(start: Start) -> None:
    """Also one that has never sent anything; not one with a request in part."""
    server = start()
    with connect(server) as used, connect(server) as unused, connect(server) as sending:
        used.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        one_answer(used)
        whole = post(URL, BODY)
        sending.sendall(whole[:20])
        wait_until(lambda: len(server.uvicorn.server_state.connections) == 3)
        began = time.monotonic()
        ended = drain(server, delay=0.0)
        assert used.recv(1) == b""
        assert unused.recv(1) == b""
        assert 0.1 < time.monotonic() - began < 2
        assert not ended.done()
        time.sleep(0.3)
        sending.sendall(whole[20:-5])
        time.sleep(0.5)
        sending.sendall(whole[-5:])
        head, body = one_answer(sending)
        assert b"connection: close" in head
        assert text(body) == "Hello world"
    ended.result(5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_pipelined_requests_are_all_answered(start: Start, when: str) -> None:
    """Requests that follow before the first answer: only the last answer closes the connection."""
    server = start()
    hold(server, 0)
    with connect(server) as connection:
        connection.sendall(post(URL, BODY))
        wait_until(lambda: len(server.engine.live) == 1)
        if when == "after":
            drain(server)
        connection.sendall(post(URL, BODY) + post(URL, BODY))
        if when == "before":
            (protocol,) = server.uvicorn._connections()
            wait_until(lambda: len(protocol.pipeline) == 2)
            drain(server)
        else:
            time.sleep(0.1)
        hold(server, None)
        answers = [one_answer(connection) for _ in range(3)]
        assert [b"connection: close" in head for head, _ in answers] == [False, False, True]
        assert {text(body) for _, body in answers} == {"Hello world"}
        assert connection.recv(1) == b""


def test_http_1_0(start: Start) -> None:
    server = start()
    drain(server)
    with connect(server) as connection:
        connection.sendall(post(URL, BODY, "1.0"))
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.lower().count(b"connection: close") == 1
    assert text(received.partition(b"\r\n\r\n")[2]) == "Hello world"


def test_new_connections_are_served_until_they_are_late(start: Start) -> None:
    server = start()
    hold(server, 0)
    with connect(server) as running:
        running.sendall(post(URL, BODY))
        wait_until(lambda: len(server.engine.live) == 1)
        ended = drain(server, delay=0.15)
        with connect(server) as early:
            wait_until(lambda: server.uvicorn._drain_state.late)
            early.sendall(post(URL, BODY))
            late = httpx.post(f"{server.url}{URL}", json=BODY)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
            assert late.headers["retry-after"]
            assert late.headers["connection"] == "close"
            message = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
            assert httpx.post(f"{server.url}/v1/messages", json=message).json()["type"] == "error"
            assert 'reason="draining"} 2.0' in httpx.get(f"{server.url}/metrics").text
            assert httpx.get(f"{server.url}/ready").status_code == 503
            assert httpx.get(f"{server.url}/health").status_code == 200
            hold(server, None)
            assert one_answer(early)[0].startswith(b"HTTP/1.1 200 OK")
            assert one_answer(running)[0].startswith(b"HTTP/1.1 200 OK")
    ended.result(5)


def test_the_drain_ends_although_late_clients_keep_coming(start: Start) -> None:
    server = start()
    ended = drain(server, delay=0.0)
    with connect(server):
        ended.result(5)
