"""Half-closed clients, bodies that never end, and requests that are not HTTP."""

from __future__ import annotations

import json
import logging
import socket
import time

import pytest
from gateway_fakes import RunningServer, wait_until

from gllm.gateway.http import uvicorn_half_close

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def post(path: str, body: dict[str, object], version: str = "1.1") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def rest(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_half_closed_client_gets_its_answer(clean: RunningServer, stream: bool, version: str) -> None:
    with connect(clean) as connection:
        connection.sendall(post("/v1/chat/completions", {**CHAT, "stream": stream}, version))
        connection.shutdown(socket.SHUT_WR)
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")
    assert not clean.engine.aborted


def test_half_closed_client_waits(clean: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes are sent before the answer and inside a stream, without a change to the answer."""
    monkeypatch.setattr(uvicorn_half_close, "PROBE_DELAYS", (0.01, 0.02))
    for stream in (False, True):
        clean.engine.hold_at = 1 if stream else 0
        with connect(clean) as connection:
            connection.sendall(post("/v1/chat/completions", {**CHAT, "stream": stream}))
            connection.shutdown(socket.SHUT_WR)
            wait_until(lambda: len(clean.engine.live) == 1)
            time.sleep(0.1)
            clean.call(lambda: setattr(clean.engine, "hold_at", None))
            received = rest(connection)
        if stream:
            assert received.count(b"\r\n3\r\n:\n\n") == 2
        else:
            assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
            assert json.loads(received.rpartition(b"\r\n")[2])["choices"][0]["message"]["content"] == "Hello world"
    assert not clean.engine.aborted


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_is_noticed(clean: RunningServer, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(uvicorn_half_close, "PROBE_DELAYS", (0.05, 0.1))
    clean.engine.hold_at = 1
    connection = connect(clean)
    connection.sendall(post("/v1/chat/completions", {**CHAT, "stream": stream}))
    wait_until(lambda: len(clean.engine.live) == 1)
    connection.close()
    wait_until(lambda: len(clean.engine.aborted) == 1, seconds=3)


def test_half_closed_within_a_request(clean: RunningServer) -> None:
    with connect(clean) as connection:
        connection.sendall(post("/v1/chat/completions", dict(CHAT))[:-5])
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b""
    wait_until(lambda: clean.gateway.admission.live == 0)


def test_endless_body_is_not_read_for_ever(clean: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_half_close, "MAX_DROPPED_BYTES", 100_000)
    with connect(clean) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 404"
        chunks = (b"400\r\n" + bytes(1024) + b"\r\n") * 10_000
        with pytest.raises(ConnectionError):
            connection.sendall(chunks)


def test_unread_body_times_out(clean: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_half_close, "DROP_TIMEOUT", 0.05)
    with connect(clean) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 404")


def test_unread_body_that_ends_keeps_the_connection(clean: RunningServer) -> None:
    with connect(clean) as connection:
        for _ in range(2):
            connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
            received = b""
            while not received.endswith(b"}}"):
                received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 404")
            connection.sendall(bytes(100))


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
def test_host(clean: RunningServer, hosts: bytes) -> None:
    with connect(clean) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 400")
    with connect(clean) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200")


def test_malformed_requests_fill_no_log(clean: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for nonsense in (b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"):
        with connect(clean) as connection:
            connection.sendall(nonsense)
            assert connection.recv(65536)
    assert not caplog.records
