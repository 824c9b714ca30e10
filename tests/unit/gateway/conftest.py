"""Fixtures: a real uvicorn server in a thread, with an engine whose answers the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from gateway_fakes import FakeEngine, RunningServer, make_server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Shared by the tests of a module; each test starts from `reset`."""
    with make_server() as running:
        yield running


@pytest.fixture
def clean(server: RunningServer) -> RunningServer:
    server.engine.reset()
    return server


@pytest.fixture
def http(clean: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=clean.url, timeout=10) as client:
        yield client


@pytest.fixture
def client(clean: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{clean.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., RunningServer]]:
    """Servers with other settings, stopped at the end of the test."""
    running: list[RunningServer] = []

    def begin(**options: object) -> RunningServer:
        server = make_server(**options)
        running.append(server.__enter__())
        return server

    yield begin
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def wide_http() -> Iterator[httpx.Client]:
    """A server with room for the largest requests."""
    with (
        make_server(engine=FakeEngine(max_model_len=512, max_num_seqs=256)) as running,
        httpx.Client(base_url=running.url, timeout=20) as client,
    ):
        yield client
