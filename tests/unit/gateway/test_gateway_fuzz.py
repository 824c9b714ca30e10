"""A thousand malformed requests from the OpenAPI document: no 5xx, and the server still serves afterwards."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import schemathesis
from gateway_fakes import RunningServer, wait_until
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"input": "Hi"},
    "/v1/responses/compact": {"model": "tiny", "input": "Hi"},
    "/generate": {"text": "Hi"},
    "/v1/score": {"query": "Hi", "items": ["a"], "label_token_ids": [1]},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1]},
}
WEIRD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    -(2**31),
    2**63,
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-308,
    "",
    "a",
    "\x00",
    "\u202e",
    "\U0010ffff",
    "a" * 3000,
    [],
    [[]],
    [None],
    {},
    {"": None},
    {"a": {"a": {"a": []}}},
    [1, "a", None],
    [-1],
    [2**40],
    {"type": "object"},
    {"type": "function"},
    {"type": "json_schema"},
    [{"role": "user"}],
    "null",
    "{",
    [{}] * 50,
    {"include_usage": 1},
    {"include_usage": True},
    ["a"] * 200,
    {"-1": 1},
    {"1": 1e9},
    {"x": 1},
]


def check(server: RunningServer, answer: httpx.Response) -> None:
    assert answer.status_code < 500, (answer.request.content[:500], answer.text)
    if answer.status_code >= 400:
        error = answer.json()["error"]
        is_anthropic = "/v1/messages" in str(answer.request.url)
        assert set(error) == ({"message", "type", "details"} if is_anthropic else {"message", "type", "param", "code"})
        assert len(error["message"]) < 2000


def serves(server: RunningServer, http: httpx.Client) -> None:
    server.engine.reset()
    answer = http.post("/v1/completions", json=BASES["/v1/completions"])
    assert answer.json()["choices"][0]["text"] == "Hello world"
    assert http.get("/health").status_code == 200
    wait_until(lambda: server.gateway.admission.live == 0)
    assert not server.engine.live


def test_mutated_fields(http: httpx.Client, clean: RunningServer) -> None:
    """Every field of every body with unexpected values, alone and combined."""
    document = http.get("/openapi.json").json()
    draw = random.Random(0)
    count = 0
    for path, base in BASES.items():
        reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields = sorted(document["components"]["schemas"][reference.rpartition("/")[2]]["properties"])
        for field in fields:
            for value in draw.sample(WEIRD, 9):
                check(clean, http.post(path, content=json.dumps({**base, field: value}), headers=JSON))
                count += 1
        for _ in range(60):
            body = {**base, **{field: draw.choice(WEIRD) for field in draw.sample(fields, min(len(fields), 3))}}
            check(clean, http.post(path, content=json.dumps(body), headers=JSON))
            count += 1
    assert count >= 1000
    serves(clean, http)


JSON = {"Content-Type": "application/json"}


def test_bytes_that_are_not_json(http: httpx.Client, clean: RunningServer) -> None:
    @settings(
        max_examples=100,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        phases=[Phase.generate],
    )
    @given(st.sampled_from(sorted(BASES)), st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def send(path: str, body: bytes) -> None:
        check(clean, http.post(path, content=body, headers=JSON))

    send()
    serves(clean, http)


def test_schemathesis(http: httpx.Client, clean: RunningServer) -> None:
    """Valid and invalid requests that schemathesis makes from the document."""
    document = http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    for operation in (result.ok() for result in schema.get_all_operations()):
        if "requestBody" not in document["paths"][operation.path][operation.method]:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=15,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            @given(operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                check(clean, case.call(base_url=clean.url, timeout=10))

            send()
    serves(clean, http)
