"""Bounds of connections: their number, and how long an answer waits for its reader; no free descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import subprocess
import sys
import time
from typing import Any, cast

import httpx
import pytest
import zmq
from gateway_fakes import FakeEngine, make_server, wait_until

from gllm.gateway import http_process
from gllm.gateway.http import uvicorn_bounds
from gllm.gateway.http.connections import MAX_CONNECTIONS, RESERVED_DESCRIPTORS, RefusalLog, connection_limit
from gllm.gateway.http.server import ACCEPT_BATCH
from gllm.gateway.http_process import HttpProcess
from gllm.supervisor.link import SupervisorLink
from gllm.wire.messages import Hello


def test_connections_beyond_the_limit_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    with make_server() as server:
        server.uvicorn.config.http_protocol_class.max_connections = 3  # type: ignore[attr-defined]
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        wait_until(lambda: len(server.uvicorn.server_state.connections) == 3)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as refused:
                answer = refused.recv(4096)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"too_many_connections" in answer
                assert refused.recv(1) == b""
        for connection in idle:
            connection.close()
        wait_until(lambda: not server.uvicorn.server_state.connections)
        assert httpx.get(f"{server.url}/health").status_code == 200
    lines = [record for record in caplog.records if record.message == "connections refused"]
    assert 1 <= len(lines) <= 3, "at most one a second"


def test_the_limit_leaves_free_descriptors() -> None:
    code = (
        "import resource\n"
        "from gllm.gateway.http.connections import connection_limit, raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "print(connection_limit())\n"
        "raise_descriptor_limit()\n"
        "print(connection_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, soft, hard = map(int, done.stdout.split())
    assert 40 < before < 85
    assert (after - before, soft, hard) == (200, 300, 300)


def test_a_burst_beyond_the_limit_fits_into_the_reserve() -> None:
    # Otherwise accept() finds no descriptor and pauses for a second, in which no connection is answered.
    assert 4 * ACCEPT_BATCH <= RESERVED_DESCRIPTORS
    with make_server() as server:
        server.uvicorn.config.http_protocol_class.max_connections = 0  # type: ignore[attr-defined]
        burst = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for connection in burst:
            with connection:
                connection.settimeout(5)
                assert connection.recv(4096).startswith(b"HTTP/1.1 503 ")


def test_the_limit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (2**20, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert connection_limit() == MAX_CONNECTIONS


def test_accept_without_descriptors_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    refusals = RefusalLog()
    context = {"message": "x", "exception": OSError(errno.EMFILE, "Too many open files"), "socket": object()}
    for _ in range(2000):
        refusals.handle(loop, context)
    assert [record.message for record in caplog.records] == ["connections refused"]
    caplog.clear()
    refusals.handle(loop, {"message": "something else", "exception": RuntimeError("x")})
    assert [record.name for record in caplog.records] == ["asyncio"]
    loop.close()


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_bounds, "STALL_TIMEOUT", 0.2)
    engine = FakeEngine(max_model_len=10_000_000)
    with make_server(engine=engine) as server:
        engine.reply = lambda prompt, sampling: [65] * 5_000_000
        engine.tokens_per_output = 20_000
        body = b'{"prompt":"a","stream":true,"max_tokens":5000000}'
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: server.gateway.admission.live == 1)
            wait_until(lambda: server.gateway.admission.live == 0, 20)
            wait_until(lambda: not engine.live and len(engine.aborted) == 1)


def test_a_slow_reader_stays_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_bounds, "STALL_TIMEOUT", 0.3)
    engine = FakeEngine(max_model_len=10_000_000)
    with make_server(engine=engine) as server:
        engine.reply = lambda prompt, sampling: [65] * 8_000_000
        engine.tokens_per_output = 100_000
        body = {"prompt": "a", "stream": True, "max_tokens": 8_000_000}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
            size = 0
            for number, part in enumerate(answer.iter_raw(chunk_size=500_000)):
                size += len(part)
                if number < 8:
                    time.sleep(0.15)
        assert size > 8_000_000


class _Link:
    def __init__(self) -> None:
        self.states: list[str] = []

    async def report(self, state: str, detail: str = "", progress: float = 0.0) -> None:
        self.states.append(state)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), zmq.ZMQError(errno.EMFILE)])
def test_a_connection_without_a_descriptor_is_retried(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_process, "RETRY_INTERVAL", 0.01)
    engine = FakeEngine()
    tries = 0

    async def connect(epoch: int, timeout: float = 600.0) -> Hello:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise error
        return engine.up

    engine.connect = connect  # type: ignore[method-assign]
    with make_server(engine=engine) as server:
        link = _Link()

        async def run() -> None:
            life = HttpProcess(server.gateways, cast(Any, None), cast(SupervisorLink, link))
            life._serving.set()
            await life._connect_to(2)

        with caplog.at_level(logging.ERROR):
            asyncio.run(run())
    assert tries == 4
    assert link.states == ["ready"]
    assert [record.message for record in caplog.records] == ["no engine yet"] * 3
