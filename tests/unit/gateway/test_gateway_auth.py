"""The API key guards everything but /health and /ready."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from gateway_fakes import RunningServer, make_server

OPEN = ["/health", "/ready"]
GUARDED = [
    "/v1/models",
    "/metrics",
    "/version",
    "/openapi.json",
    "/tokenize",
    "/nothing",
    "/",
    "/ping",
    "/load",
    "/tokenizer_info",
    "/models",
    "//health",
    "/health/",
    "/Health",
    "/v1/chat/completions?x=/health",
    "/%2fhealth",
]


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningServer]:
    with make_server(api_key="s3cret") as server:
        yield server


@pytest.fixture(scope="module")
def outsider(locked: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked.url) as client:
        yield client


@pytest.mark.parametrize("path", OPEN)
def test_open(outsider: httpx.Client, path: str) -> None:
    assert outsider.get(path).status_code == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "s3cret"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Bearer s3cret2"},
        {"Host": "x/health?"},
        {"X-Api-Key": ""},
        {"X-Api-Key": "wrong"},
        {"X-Api-Key": "Bearer s3cret"},
        {"Api-Key": "s3cret"},
    ],
)
def test_guarded(outsider: httpx.Client, path: str, headers: dict[str, str]) -> None:
    answer = outsider.get(path, headers=headers)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_key_of_either_header(outsider: httpx.Client) -> None:
    for headers in (
        {"X-Api-Key": "s3cret"},
        {"X-Api-Key": "s3cret", "Authorization": "Bearer wrong"},
        {"X-Api-Key": "none", "Authorization": "Bearer s3cret"},
    ):
        assert outsider.get("/v1/models", headers=headers).status_code == 200


def test_openai_client(locked: RunningServer) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="s3cret", max_retries=0) as client:
        assert client.models.list().data[0].id == "tiny"
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
