"""HEAD, trailing slashes, a missing /v1, and the routes of other servers."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest
from gateway_fakes import EOS, RunningServer

from gllm import __version__
from gllm.gateway.http.paths import canonical

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/ready",
        "/v1/models",
        "/v1/models/tiny",
        "/version",
        "/ping",
        "/load",
        "/tokenizer_info",
        "/model_info",
        "/openapi.json",
    ],
)
def test_head(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_an_unknown_path(http: httpx.Client, clean: RunningServer) -> None:
    assert http.head("/nothing").status_code == 404
    head = http.head("/v1/chat/completions")
    assert (head.status_code, head.headers["allow"]) == (405, "POST")
    assert http.post("/v1/models").headers["allow"] == "GET, HEAD"
    clean.engine.hello = None
    assert http.head("/health").status_code == 503


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models//", "/health/", "/models", "/models/tiny/"])
def test_other_spellings(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_trailing_slash_keeps_the_body(http: httpx.Client) -> None:
    for path in ("/v1/chat/completions/", "/chat/completions", "/chat/completions/"):
        assert http.post(path, json=CHAT).json()["choices"][0]["message"]["content"] == "Hello world"
    assert http.post("/v1/completions/", json={"prompt": "a"}).status_code == 200
    assert http.post("/tokenize/", json={"prompt": "a"}).json()["tokens"] == [97]


def test_canonical() -> None:
    assert canonical("/") == canonical("//") == "/"
    assert canonical("/v1/models/org/name/") == "/v1/models/org/name"
    assert canonical("/models/a") == "/v1/models/a"
    assert canonical("/modelsx") == "/modelsx"
    assert canonical("//health") == "//health"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/embeddings",
        "/v1/embeddings/",
        "/v1/rerank",
        "/rerank",
        "/v2/rerank",
        "/score",
        "/pooling",
        "/v1/moderations",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/files",
        "/v1/files/file-1",
        "/v1/batches",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_routes_that_are_not_offered(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path, json={"input": "a"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "unknown_url"
    assert error["message"].startswith("This server generates text: ")


def test_server_routes(http: httpx.Client, clean: RunningServer) -> None:
    root = http.get("/").json()
    assert (root["name"], root["version"], root["model"]) == ("gLLM", __version__, "tiny")
    assert http.get("/ping").json() == http.post("/ping").json() == {"status": "ok"}
    assert http.get("/load").json() == {"server_load": 0}
    info = http.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<bos>", "<eos>", None)
    assert info["chat_template"].startswith("{% for m in messages %}")
    assert info["model_max_length"] == 512
    # lm-eval's remote tokenizer gets the id of EOS in this way.
    asked = {"prompt": info["eos_token"], "add_special_tokens": False}
    assert http.post("/tokenize", json=asked).json()["tokens"] == [EOS]
    clean.engine.hello = None
    assert http.get("/ping").status_code == 503


def test_models_as_anthropic_lists_them(http: httpx.Client) -> None:
    models = http.get("/v1/models").json()
    assert (models["has_more"], models["first_id"], models["last_id"]) == (False, "tiny", "tiny")
    (model,) = models["data"]
    assert (model["type"], model["display_name"]) == ("model", "tiny")
    assert model["created_at"].endswith("Z")


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "identity, gzip"])
def test_content_encoding(http: httpx.Client, encoding: str) -> None:
    body = gzip.compress(json.dumps(CHAT).encode())
    answer = http.post("/v1/chat/completions", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == 415
    assert encoding in answer.json()["error"]["message"]


def test_content_encoding_identity(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json=CHAT, headers={"Content-Encoding": "Identity"})
    assert answer.status_code == 200
