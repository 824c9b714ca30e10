"""Every error is OpenAI's object with the right status, and shows no internals of the server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import RunningServer, wait_until

from gllm.gateway.protocol.errors import INTERNAL_MESSAGE

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"


def error_of(
    answer: httpx.Response, status: int, code: str | None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["type"] == kind
    assert error["code"] == code
    return error


def test_unknown_path(http: httpx.Client) -> None:
    error_of(http.get("/v1/nothing"), 404, "unknown_url")


def test_wrong_method(http: httpx.Client) -> None:
    answer = http.get(CHAT)
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[",
        "nul",
        '{"messages": [}',
        '{"a": "\\ud800"}',
        "\x00",
        "{'a': 1}",
        '{"n": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 10_000,
    ],
)
def test_syntax(http: httpx.Client, content: str) -> None:
    answer = http.post(CHAT, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in (
        "invalid_json",
        "missing_required_parameter",
        "unsupported_parameter",
        "invalid_value",
    )


@pytest.mark.parametrize("content", ["1", "[]", "null", '"a"'])
def test_not_an_object(http: httpx.Client, content: str) -> None:
    error_of(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400, "invalid_value")


def test_not_utf8(http: httpx.Client) -> None:
    content = b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'
    error_of(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400, "invalid_json")


def test_nan(http: httpx.Client) -> None:
    content = '{"prompt": "a", "temperature": NaN}'
    answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


def test_wrong_content_type(http: httpx.Client) -> None:
    error_of(http.post(CHAT, content="{}", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")


def test_missing_field(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, json={}), 400, "missing_required_parameter")
    assert error["param"] == "messages"


def test_deep_param(http: httpx.Client) -> None:
    messages = [*MESSAGES, {"role": "user", "content": [{"type": "text", "text": 5}]}]
    error = error_of(http.post(CHAT, json={"messages": messages}), 400, "invalid_value")
    assert error["param"] == "messages[1].content[0].text"


def test_a_field_given_twice(http: httpx.Client) -> None:
    for fields, param in (
        ('"max_tokens": 1, "max_tokens": 2', "max_tokens"),
        ('"logit_bias": {"7": 1, "8": 1, "7": 2}', "logit_bias.7"),
    ):
        content = '{"prompt": "a", ' + fields + "}"
        answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        error = error_of(answer, 400, "invalid_value")
        assert error["param"] == param
        assert f"'{param}' is given twice" in error["message"]


@pytest.mark.parametrize("half", [r"\ud83d", r"\ud83d!", r"\ude00", r"a\ude00\ud83d"])
@pytest.mark.parametrize("content", ['{"prompt": "%s"}', '{"prompt": ["%s"]}', '{"prompt": "a", "%s": 1}'])
def test_half_of_a_surrogate_pair(http: httpx.Client, content: str, half: str) -> None:
    answer = http.post("/v1/completions", content=content % half, headers={"Content-Type": "application/json"})
    assert "half of a surrogate pair" in error_of(answer, 400, "invalid_json")["message"]
    whole = http.post("/v1/completions", json={"prompt": "\U0001f600"})
    assert whole.status_code == 200


def test_whole_and_escaped_pairs_are_no_half(http: httpx.Client) -> None:
    for text in (r"\ud83d\ude00", r"\\ud83d"):
        content = '{"prompt": "' + text + '",}'
        answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        assert "surrogate" not in error_of(answer, 400, "invalid_json")["message"]


def test_byte_order_mark(http: httpx.Client) -> None:
    content = b'\xef\xbb\xbf{"prompt": "a"}'
    answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_model_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("characters", "limits", "says"),
    [
        (10, {"max_tokens": 510}, "max_completion_tokens is too large: 510."),
        (600, {}, "is longer than the model's context length"),
        (9000, {"stream": True}, "is longer than the model's context length"),
    ],
)
def test_context_length(http: httpx.Client, characters: int, limits: dict[str, Any], says: str) -> None:
    body = {"messages": [{"role": "user", "content": "a" * characters}], **limits}
    error = error_of(http.post(CHAT, json=body), 400, "context_length_exceeded")
    assert error["param"] == "messages"
    # Clients recognize a chat that is too long by these phrases.
    assert says in error["message"]
    assert "This model's maximum context length is 512 tokens" in error["message"]


def test_min_tokens_beyond_what_fits(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, json={"messages": MESSAGES, "min_tokens": 511}), 400, "invalid_value")
    assert error["param"] == "min_tokens"


def test_bad_grammar(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, json={"messages": MESSAGES, "guided_regex": "bad"}), 400, "invalid_value")
    assert error["param"] == "guided_regex"


def test_two_grammars(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "guided_regex": "a", "response_format": {"type": "json_object"}}
    assert error_of(http.post(CHAT, json=body), 400, "invalid_value")["param"] == "response_format"


@pytest.fixture
def small_bodies(start: Callable[..., RunningServer]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=start(max_body_bytes=1000).url) as client:
        yield client


def test_body_too_large(small_bodies: httpx.Client) -> None:
    error_of(small_bodies.post("/v1/completions", json={"prompt": "a" * 1000}), 413, "request_too_large")
    assert small_bodies.post("/v1/completions", json={"prompt": "a" * 100}).status_code == 200


def test_body_too_large_without_length(small_bodies: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    answer = small_bodies.post("/v1/completions", content=parts(), headers={"Content-Type": "application/json"})
    error_of(answer, 413, "request_too_large")


def test_internal_error(http: httpx.Client, clean: RunningServer) -> None:
    def broken(*_: object) -> list[int]:
        raise RuntimeError("secret at 0x7f00")

    clean.engine.reply = broken
    error = error_of(http.post("/v1/completions", json={"prompt": "a"}), 500, "internal_error", "server_error")
    assert error["message"] == INTERNAL_MESSAGE
    clean.engine.reset()
    assert http.post("/v1/completions", json={"prompt": "a"}).status_code == 200
    wait_until(lambda: clean.gateway.admission.live == 0)


def test_engine_reports_an_error(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.fail_at = 0
    for stream in (False, True):
        answer = http.post("/v1/completions", json={"prompt": "a", "stream": stream})
        error = error_of(answer, 500, "internal_error", "server_error")
        assert "secret" not in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("guided_regex", "a+"), ("response_format", {"type": "json_object"}), ("structured_outputs", {"regex": "a"})],
)
def test_a_grammar_that_fails_late_is_the_clients_error(
    http: httpx.Client, clean: RunningServer, field: str, value: object
) -> None:
    clean.engine.invalid = "the grammar is too complex"
    for stream, fail_at in ((False, 0), (True, 0), (False, 3)):
        clean.engine.fail_at = fail_at
        answer = http.post("/v1/completions", json={"prompt": "a", "stream": stream, field: value})
        error = error_of(answer, 400, "invalid_value")
        assert error["param"] == field
        assert error["message"] == f"{field}: the grammar is too complex"
    begun = http.post("/v1/completions", json={"prompt": "a", "stream": True, field: value})
    assert begun.status_code == 200
    last = json.loads(begun.text.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["error"]["type"], last["error"]["param"]) == ("invalid_request_error", field)


def test_engine_refuses_at_submit(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.refuse = "the engine is not ready"
    for stream in (False, True):
        answer = http.post("/v1/completions", json={"prompt": "a", "stream": stream})
        error_of(answer, 503, "engine_dead", "server_error")
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: clean.gateway.admission.live == 0)


def raw(server: RunningServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_broken_http(clean: RunningServer) -> None:
    head, _, body = raw(clean, b"NONSENSE\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_endless_headers(clean: RunningServer) -> None:
    received = b""
    with socket.create_connection(("127.0.0.1", clean.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        try:
            for _ in range(1000):
                connection.sendall(b"X-A: " + b"a" * 10_000 + b"\r\n")
        except OSError:
            pass
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
    assert not received or b" 431 " in received.splitlines()[0]


def test_request_id(http: httpx.Client) -> None:
    assert http.get("/version", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    forged = http.get("/version", headers={"X-Request-Id": "a b;http://x"}).headers["x-request-id"]
    assert forged.isalnum()
