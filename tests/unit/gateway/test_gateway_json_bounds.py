"""Bodies within the size limit whose number of values alone would keep the server busy for a minute."""

from __future__ import annotations

import httpx
import pytest

from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.json_bounds import MAX_FIELD_VALUES, MAX_TOKEN_VALUES, check_bounds

JSON = {"Content-Type": "application/json"}
SIZE = 4_000_000


def filled(unit: str, head: str, tail: str) -> str:
    return head + ",".join([unit] * (SIZE // (len(unit) + 1))) + tail


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", filled("1", '{"prompt":[', "]}"), None),
        ("/v1/completions", filled('""', '{"prompt":[', "]}"), None),
        ("/v1/completions", filled("[]", '{"prompt":[', "]}"), None),
        ("/v1/completions", filled("0", '{"prompt":"a","stop":[', "]}"), None),
        ("/v1/completions", filled("123456789", '{"prompt":"a","stop":[', "]}"), "stop"),
        ("/v1/completions", filled("[1]", '{"prompt":[', "]}")[: SIZE // 4].rpartition(",")[0] + "]}", "prompt"),
        ("/v1/chat/completions", filled("{}", '{"messages":[', "]}"), None),
        ("/v1/chat/completions", filled("0", '{"messages":[{"role":"user","content":[', "]}]}"), None),
        ("/v1/chat/completions", "{" + ",".join(f'"x{i}":0' for i in range(300)) + "}", None),
        ("/v1/chat/completions", '{"metadata":{' + ",".join(f'"x{i}":0' for i in range(2000)) + "}}", None),
        ("/v1/chat/completions", '{"logit_bias":{' + ",".join(f'"x{i}":0' for i in range(2000)) + "}}", "logit_bias"),
        ("/detokenize", filled("1", '{"tokens":[', "]}"), None),
    ],
)
def test_refused(http: httpx.Client, path: str, body: str, param: str | None) -> None:
    answer = http.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] in (param, "messages")
    assert error["code"] in ("invalid_value", "missing_required_parameter")


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt":"' + "a, [{" * 500_000 + '"}',
        '{"messages":"' + r"\",\\" * 300_000 + '"}',
        '{"prompt":[' + ",".join(["1"] * 1_000_000) + "]}",
        '{"tools":[' + ",".join(["1"] * (MAX_FIELD_VALUES - 1)) + "]}",
    ],
)
def test_text_and_token_ids_are_cheap(body: str) -> None:
    check_bounds(body.encode())


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt":[' + ",".join(["1"] * (MAX_TOKEN_VALUES + 10)) + "]}",
        '{"tools":[' + ",".join(["1"] * (MAX_FIELD_VALUES + 10)) + "]}",
        '{"tools":["\\\\",' + ",".join(["1"] * (MAX_FIELD_VALUES + 10)) + "]}",
    ],
)
def test_values_are_not_cheap(body: str) -> None:
    with pytest.raises(ApiError, match="too many values"):
        check_bounds(body.encode())
