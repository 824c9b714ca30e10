"""Every field is implemented, a checked no-op, or refused by name; none is ignored."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from gateway_fakes import RunningServer
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from gllm.gateway.request.chat_schema import ChatRequest
from gllm.gateway.request.completion_schema import CompletionRequest
from gllm.gateway.request.fields import CHAT_IMPLEMENTED, COMPLETION_IMPLEMENTED, NO_OP, REFUSED

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"prompt": "Hi"}


def test_the_table_covers_the_schemas() -> None:
    assert set(ChatRequest.model_fields) <= CHAT_IMPLEMENTED | set(NO_OP)
    assert set(CompletionRequest.model_fields) <= COMPLETION_IMPLEMENTED | set(NO_OP)
    assert set(ChatRequest.model_fields) | set(CompletionRequest.model_fields) == (
        CHAT_IMPLEMENTED | COMPLETION_IMPLEMENTED | set(NO_OP)
    )
    assert not set(REFUSED) & (set(ChatRequest.model_fields) | set(CompletionRequest.model_fields))


def test_the_table_covers_openais_client() -> None:
    chat = set(chat_create_params.CompletionCreateParamsBase.__annotations__)
    assert chat - CHAT_IMPLEMENTED - set(NO_OP) <= set(REFUSED)
    completion = set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert completion - COMPLETION_IMPLEMENTED - set(NO_OP) <= set(REFUSED)


@pytest.mark.parametrize("field", sorted([*REFUSED, "foo", "Foo-Bar"]))
@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
def test_refused_by_name(http: httpx.Client, path: str, body: dict[str, Any], field: str) -> None:
    answer = http.post(path, json={**body, field: 1})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert error["code"] == "unsupported_parameter"
    assert error["type"] == "invalid_request_error"
    assert f"'{field}' is not supported" in error["message"]


NO_OP_VALUES: dict[str, tuple[list[Any], Any]] = {
    "user": (["me"], 5),
    "safety_identifier": (["me"], 5),
    "prompt_cache_key": (["key"], 5),
    "prompt_cache_retention": (["in_memory", "in-memory"], "24h"),
    "metadata": ([{"a": "b"}], {"a": 1}),
    "store": ([False], True),
    "service_tier": (["auto", "default"], "priority"),
    "modalities": ([["text"]], ["text", "audio"]),
    "verbosity": (["medium"], "high"),
    "spaces_between_special_tokens": ([True], False),
    "use_beam_search": ([False], True),
}


@pytest.mark.parametrize("field", sorted(NO_OP))
def test_no_ops(http: httpx.Client, field: str) -> None:
    allowed, refused = NO_OP_VALUES[field]
    for value in [*allowed, None]:
        assert http.post("/v1/chat/completions", json={**CHAT, field: value}).status_code == 200, value
    answer = http.post("/v1/chat/completions", json={**CHAT, field: refused})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


SAMPLING: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    "repetition_penalty": 1.1, "seed": -3, "min_tokens": 2, "ignore_eos": True, "include_stop_str_in_output": True,
    "skip_special_tokens": False, "prompt_logprobs": 2,
}  # fmt: skip


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
def test_sampling_fields_reach_the_engine(
    http: httpx.Client, clean: RunningServer, path: str, body: dict[str, Any]
) -> None:
    extra = {"stop": ["x", "yy"], "stop_token_ids": [3, 4], "logit_bias": {"5": -7}, "max_tokens": 9,
             "priority": -2, "cache_salt": "salt"}  # fmt: skip
    assert http.post(path, json={**body, **SAMPLING, **extra}).status_code == 200
    (stream,) = clean.engine.submitted
    for field, value in SAMPLING.items():
        assert getattr(stream.sampling, field) == value, field
    assert stream.sampling.stop == ("x", "yy")
    assert stream.sampling.stop_token_ids == (3, 4)
    assert stream.sampling.logit_bias == {5: -7.0}
    assert stream.sampling.max_tokens == 9
    assert (stream.priority, stream.cache_salt) == (-2, "salt")


def test_null_is_unset(http: httpx.Client, clean: RunningServer) -> None:
    optional = {name: None for name in ChatRequest.model_fields if name != "messages"}
    assert http.post("/v1/chat/completions", json={**CHAT, **optional}).status_code == 200
    optional = {name: None for name in CompletionRequest.model_fields if name != "prompt"}
    assert http.post("/v1/completions", json={**COMPLETION, **optional}).status_code == 200
    assert clean.engine.submitted[1].sampling.max_tokens == 16
