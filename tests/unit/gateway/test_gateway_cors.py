"""Pages in a browser: which of them may use the server, and the answers to preflights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from gateway_fakes import RunningServer, make_server

LOCAL = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8443",
    "http://127.0.0.1:5173",
    "http://[::1]",
    "http://[::1]:3000",
]
FOREIGN = [
    "https://example.com",
    "http://notlocalhost",
    "http://localhost.evil.com",
    "http://evil.com#localhost",
    "http://localhost:3000.evil.com",
    "http://127.0.0.1.evil.com",
    "null",
]
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def locked() -> Iterator[httpx.Client]:
    """A server with a key; the client does not have it."""
    with (
        make_server(api_key="s3cret", allowed_origins=("https://app.example",)) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


@pytest.mark.parametrize("origin", [*LOCAL, "https://app.example"])
def test_preflight_needs_no_key(locked: httpx.Client, origin: str) -> None:
    for path in ("/v1/chat/completions", "/v1/models", "/v1/messages/"):
        answer = locked.options(path, headers={"Origin": origin, **PREFLIGHT})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE, OPTIONS"
        assert int(answer.headers["access-control-max-age"]) > 0
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", FOREIGN)
def test_other_pages_are_not_allowed(locked: httpx.Client, origin: str) -> None:
    preflight = locked.options("/v1/models", headers={"Origin": origin, **PREFLIGHT})
    answer = locked.get("/health", headers={"Origin": origin})
    assert (preflight.status_code, answer.status_code) == (200, 200)
    for got in (preflight, answer):
        assert not [name for name in got.headers if name.startswith("access-control")]
        assert got.headers["vary"] == "Origin"


def test_answers_and_errors_can_be_read(http: httpx.Client, clean: RunningServer, locked: httpx.Client) -> None:
    origin = {"Origin": "http://localhost:3000"}
    answers = [
        http.get("/v1/models", headers=origin),
        http.get("/nothing", headers=origin),
        http.post("/v1/chat/completions", headers=origin, json=CHAT),
        http.post("/v1/chat/completions", headers=origin, json={**CHAT, "stream": True}),
        http.post("/v1/chat/completions", headers=origin, json={}),
        locked.get("/v1/models", headers=origin),
    ]
    clean.engine.fail_at = 0
    answers.append(http.post("/v1/chat/completions", headers=origin, json=CHAT))
    clean.engine.hello = None
    answers.append(http.post("/v1/chat/completions", headers=origin, json=CHAT))
    assert [answer.status_code for answer in answers] == [200, 404, 200, 200, 400, 401, 500, 503]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == origin["Origin"]
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert "Retry-After" in answer.headers["access-control-expose-headers"]


def test_every_origin(start: Callable[..., RunningServer]) -> None:
    server = start(allowed_origins=("*",))
    with httpx.Client(base_url=server.url) as client:
        answer = client.get("/version", headers={"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "https://any.example"
        assert "access-control-allow-credentials" not in answer.headers


def test_what_a_page_can_post_without_a_preflight_is_refused(http: httpx.Client) -> None:
    body = b'{"prompt": "a"}'
    origin = {"Origin": "https://evil.example"}
    for kind in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        assert http.post("/v1/completions", content=body, headers={**origin, **kind}).status_code == 415
    assert http.post("/v1/completions", content=body).status_code == 200


def test_options_without_preflight(http: httpx.Client) -> None:
    assert http.options("/v1/models").status_code == 405
    assert "access-control-allow-origin" not in http.get("/v1/models").headers
