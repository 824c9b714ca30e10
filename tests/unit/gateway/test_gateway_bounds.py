"""For each bound: the last value inside is served, the first outside is 400 and names the field."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from gateway_fakes import VOCAB

MESSAGES = [{"role": "user", "content": "Hi"}]
INT = 2**31 - 1


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def tool(name: str = "f", **extra: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **extra}}


COMMON: list[tuple[str, Any, Any]] = [
    ("temperature", 100, 100.5),
    ("temperature", 0, -0.1),
    ("top_p", 1, 1.1),
    ("top_p", 0.01, 0),
    ("top_k", -1, -2),
    ("top_k", INT, INT + 1),
    ("min_p", 1, 1.1),
    ("min_p", 0, -0.1),
    ("presence_penalty", 2, 2.1),
    ("presence_penalty", -2, -2.1),
    ("frequency_penalty", 2, 2.1),
    ("frequency_penalty", -2, -2.1),
    ("repetition_penalty", 100, 101),
    ("repetition_penalty", 0.01, 0),
    ("seed", 2**63 - 1, 2**63),
    ("seed", -(2**63), -(2**63) - 1),
    ("logit_bias", {str(i): 0 for i in range(VOCAB)}, {str(i): 0 for i in range(1025)}),
    ("logit_bias", {"1": 100}, {"1": 101}),
    ("logit_bias", {"1": -100}, {"1": -101}),
    ("logit_bias", {"1": 0}, {"x": 0}),
    ("logit_bias", {str(VOCAB - 1): 0}, {str(VOCAB): 0}),
    ("stop", ["a"] * 2000, ["a", ""]),
    ("stop", [], ["a", 1]),
    ("stop", "a", {"a": 1}),
    ("stop", "a", ""),
    ("stop_token_ids", [1] * 128, [1] * 129),
    ("stop_token_ids", [VOCAB - 1], [VOCAB]),
    ("stop_token_ids", [0], [-1]),
    ("min_tokens", 16, 1000),
    ("min_tokens", 0, -1),
    ("n", 1, 0),
    ("n", 8, 129),
    ("prompt_logprobs", 20, 21),
    ("prompt_logprobs", 0, -1),
    ("priority", INT, INT + 1),
    ("priority", -INT, -INT - 1),
    ("cache_salt", "a" * 256, "a" * 257),
    ("cache_salt", "a", ""),
    ("max_tokens", 100, INT + 1),
    ("max_tokens", 1, -1),
    ("guided_regex", "a" * 60000, "a" * 65537),
    ("guided_grammar", "a" * 60000, "a" * 65537),
    ("guided_choice", ["a"] * 256, ["a"] * 257),
    ("guided_choice", ["a" * 4096], ["a" * 4097]),
    ("guided_choice", ["a"], []),
    ("guided_json", nested(40), nested(80)),
    ("guided_json", {"enum": [1] * 9000}, {"enum": [1] * 10001}),
    ("guided_json", {"const": 2**63}, {"const": 2**64}),
    ("structured_outputs", {"regex": "a"}, {"regex": "a", "choice": ["b"]}),
    ("structured_outputs", {"json_object": True}, {"json_object": True, "regex": "a"}),
    ("response_format", {"type": "json_object"}, {"type": "xml"}),
    ("response_format", {"type": "text"}, {"type": "json_schema"}),
    ("temperature", 1, "1"),
    ("temperature", 1, True),
    ("max_tokens", 1, 1.5),
    ("ignore_eos", True, "yes"),
    ("model", "tiny", "a" * 257),
]

CHAT: list[tuple[str, Any, Any]] = [
    ("messages", MESSAGES * 20, MESSAGES * 4097),
    ("messages", MESSAGES, []),
    (
        "messages",
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 256}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 4097}],
    ),
    ("messages", [{"role": "developer", "content": "a"}], [{"role": "", "content": "a"}]),
    ("messages", MESSAGES, [{"role": "user"}]),
    ("messages", MESSAGES, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}]),
    ("messages", [{"role": "user", "content": "a", "name": "b"}], [{"role": "user", "content": "a", "name": 1}]),
    ("max_tokens", 1, 0),
    ("max_completion_tokens", 1, 0),
    ("max_completion_tokens", 100, INT + 1),
    ("tools", [tool(f"f{i}") for i in range(128)], [tool(f"f{i}") for i in range(129)]),
    ("tools", [tool("a" * 128)], [tool("a" * 129)]),
    ("tools", [tool("a")], [tool("a"), tool("a")]),
    ("tools", [tool("a")], [tool("a b")]),
    ("tools", [tool(parameters=nested(30))], [tool(parameters=nested(80))]),
    ("tools", [tool()], [{"type": "retrieval"}]),
    ("tool_choice", "auto", "required"),
    ("tool_choice", "none", "any"),
    ("chat_template_kwargs", {"enable_thinking": True}, {"chat_template": "{{ 1 }}"}),
    ("chat_template_kwargs", {}, {f"k{i}": 1 for i in range(33)}),
    ("logprobs", True, 1),
]

COMPLETION: list[tuple[str, Any, Any]] = [
    ("prompt", "a" * 400, "a" * 600),
    ("prompt", "a", ""),
    ("prompt", [1], []),
    ("prompt", ["a"] * 100, ["a"] * 129),
    ("prompt", [[1], [2]], [[1], []]),
    ("prompt", [VOCAB - 1], [VOCAB]),
    ("prompt", [0], [-1]),
    ("prompt", [0], [1.5]),
    ("prompt", ["a"], ["a", 1]),
    ("logprobs", 20, 21),
    ("logprobs", 0, -1),
    ("best_of", 1, 2),
    ("max_tokens", 1, 0),
]


def check(http: httpx.Client, path: str, base: dict[str, Any], field: str, inside: Any, outside: Any) -> None:
    answer = http.post(path, json={**base, field: inside})
    assert answer.status_code == 200, answer.text
    answer = http.post(path, json={**base, field: outside})
    # An unknown model is the only error that is not 400.
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].split("[")[0].split(".")[0] == field, error
    assert error["code"] in (
        "invalid_value",
        "unsupported_parameter",
        "context_length_exceeded",
        "missing_required_parameter",
    )


@pytest.mark.parametrize(("field", "inside", "outside"), COMMON)
def test_common(wide_http: httpx.Client, field: str, inside: Any, outside: Any) -> None:
    check(wide_http, "/v1/completions", {"prompt": "a"}, field, inside, outside)
    check(wide_http, "/v1/chat/completions", {"messages": MESSAGES}, field, inside, outside)


@pytest.mark.parametrize(("field", "inside", "outside"), CHAT)
def test_chat(wide_http: httpx.Client, field: str, inside: Any, outside: Any) -> None:
    base: dict[str, Any] = {"messages": MESSAGES}
    if field == "tools":
        base["tool_choice"] = "none"
    check(wide_http, "/v1/chat/completions", base, field, inside, outside)


@pytest.mark.parametrize(("field", "inside", "outside"), COMPLETION)
def test_completion(wide_http: httpx.Client, field: str, inside: Any, outside: Any) -> None:
    check(wide_http, "/v1/completions", {"prompt": "a"}, field, inside, outside)


def test_prompts_times_n(wide_http: httpx.Client) -> None:
    assert wide_http.post("/v1/completions", json={"prompt": ["a"] * 64, "n": 2}).status_code == 200
    answer = wide_http.post("/v1/completions", json={"prompt": ["a"] * 65, "n": 2})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"


@pytest.mark.parametrize(
    ("path", "inside", "outside", "field"),
    [
        ("/tokenize", {"prompt": "a"}, {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"messages": MESSAGES}, {}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": []}, {"prompt": "a", "tools": [tool()]}, "tools"),
        ("/tokenize", {"prompt": "a"}, {"prompt": "a" * 10_000}, "prompt"),
        ("/tokenize", {"prompt": "a"}, {"prompt": "a", "foo": 1}, "foo"),
        ("/detokenize", {"tokens": []}, {"tokens": [VOCAB]}, "tokens"),
        ("/detokenize", {"tokens": [1]}, {"tokens": [-1]}, "tokens[0]"),
    ],
)
def test_text_routes(
    wide_http: httpx.Client, path: str, inside: dict[str, Any], outside: dict[str, Any], field: str
) -> None:
    assert wide_http.post(path, json=inside).status_code == 200
    answer = wide_http.post(path, json=outside)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
