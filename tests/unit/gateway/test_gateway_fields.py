"""Every field is implemented, a hint, or refused by name; null and harmless values count as not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_fakes import RunningServer
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.completion_schema import CompletionRequest, DetokenizeRequest, TokenizeRequest
from gllm.gateway.protocol.fields import EMPTY, HINTS, REFUSED
from gllm.gateway.protocol.schema import Body
from gllm.gateway.protocol.sglang_schema import GenerateRequest, NativeSampling, ScoreRequest

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"prompt": "Hi"}
BODIES: list[tuple[type[Body], dict[str, Any]]] = [
    (ChatRequest, CHAT),
    (CompletionRequest, COMPLETION),
    (TokenizeRequest, CHAT),
    (DetokenizeRequest, {"tokens": [1]}),
    (GenerateRequest, {"text": "Hi"}),
    (NativeSampling, {}),
    (ScoreRequest, {"query": "Hi", "items": ["a"], "label_token_ids": [1]}),
]
PATHS: list[tuple[type[Body], str, dict[str, Any]]] = [
    (ChatRequest, "/v1/chat/completions", CHAT),
    (CompletionRequest, "/v1/completions", COMPLETION),
]
SENSIBLE: list[Any] = [None, False, True, 0, 1, "", "low", "a" * 2000, [], ["a"], {}, {"a": {"b": [1, None]}}]


def test_every_field_is_in_one_table() -> None:
    both = set(ChatRequest.model_fields) & set(CompletionRequest.model_fields)
    assert not set(HINTS) & set(REFUSED)
    assert not (set(HINTS) | set(REFUSED)) & both
    assert set(EMPTY) <= set(ChatRequest.model_fields) | set(CompletionRequest.model_fields)


def test_openais_client_knows_no_other_fields() -> None:
    chat = set(chat_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert chat <= set(ChatRequest.model_fields) | set(HINTS) | set(REFUSED)
    completion = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert completion <= set(CompletionRequest.model_fields) | set(HINTS) | set(REFUSED)


def test_the_docs_name_every_field() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    fields = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *HINTS}
    assert [field for field in sorted(fields) if f"`{field}`" not in text] == []


@pytest.mark.parametrize(("schema", "body"), BODIES)
def test_null_is_not_given(schema: type[Body], body: dict[str, Any]) -> None:
    plain = schema.model_validate(body)
    for field in {*schema.model_fields, *HINTS, *REFUSED, "foo"} - set(body):
        assert schema.model_validate({**body, field: None}) == plain, field


@pytest.mark.parametrize(("schema", "body"), BODIES)
def test_harmless_values_of_refused_fields_are_not_given(schema: type[Body], body: dict[str, Any]) -> None:
    plain = schema.model_validate(body)
    for field in set(REFUSED) - set(schema.model_fields):
        for value in REFUSED[field].harmless:
            assert schema.model_validate({**body, field: value}) == plain, (field, value)


@pytest.mark.parametrize(("schema", "body"), BODIES)
def test_hints_may_have_any_value(schema: type[Body], body: dict[str, Any]) -> None:
    plain = schema.model_validate(body)
    for field in set(HINTS) - set(schema.model_fields):
        for value in SENSIBLE:
            assert schema.model_validate({**body, field: value}) == plain, (field, value)


@pytest.mark.parametrize(("schema", "body"), BODIES)
def test_empty_values_of_implemented_fields_are_not_given(schema: type[Body], body: dict[str, Any]) -> None:
    plain = schema.model_validate(body)
    for field in set(EMPTY) & set(schema.model_fields):
        for value in EMPTY[field]:
            assert schema.model_validate({**body, field: value}) == plain, (field, value)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (path, body, field)
        for schema, path, body in PATHS
        for field in sorted([*REFUSED, "foo", "Foo-Bar"])
        if field not in schema.model_fields
    ],
)
def test_refused_by_name(http: httpx.Client, path: str, body: dict[str, Any], field: str) -> None:
    answer = http.post(path, json={**body, field: {"a": 1}})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert error["code"] == "unsupported_parameter"
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"The parameter '{field}' is not supported")
    assert (REFUSED[field].instead in error["message"]) if field in REFUSED else True


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length_penalty", 1.5),
        ("mirostat", 1),
        ("use_beam_search", 1),
        ("suffix", "a"),
        ("length_penalty", True),
        ("modalities", ["text", "audio"]),
        ("typical_p", False),
        ("detokenize", False),
    ],
)
def test_values_that_change_the_answer_are_refused(http: httpx.Client, field: str, value: Any) -> None:
    answer = http.post("/v1/chat/completions", json={**CHAT, field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_usage": True}},
        {"stream_options": {"include_usage": None, "continuous_usage_stats": None, "foo": None}},
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        {"top_logprobs": 0},
        {"parallel_tool_calls": False},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "tools": []},
        {"tools": [], "tool_choice": None},
        {"response_format": {"type": "text", "json_schema": None}},
        {"structured_outputs": {"json": None, "json_object": False, "disable_additional_properties": False}},
        {"structured_outputs": {"regex": "a", "disable_any_whitespace": True, "disable_fallback": True}},
        {"logit_bias": {"5": None}},
        {"max_tokens": 16.0, "seed": 7.0, "stop_token_ids": [3.0]},
        {"model": ""},
        {"tool_choice": "", "response_format": "", "reasoning_effort": False},
        {"mirostat": 0, "mirostat_tau": 5.0, "dry_multiplier": 0.0, "dry_base": 1.75, "tfs_z": 1, "samplers": []},
        {"safe_prompt": False, "do_sample": True, "keep_alive": "5m", "options": {}, "top_a": 0},
    ],
)
def test_accepted(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = http.post("/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"stop": 5}, "stop", "Input should be a string or a list of strings"),
        ({"stop": ["a", None]}, "stop[1]", "Input should be a valid string"),
        ({"stop": ["a"] * 40 + [""]}, "stop[40]", "at least 1 character"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
        ({"logit_bias": {"7": 1, "007": 2}}, "logit_bias", "named twice"),
        ({"guided_json": 5}, "guided_json", "a JSON schema"),
        ({"response_format": {"type": "json_object", "schema": 123}}, "response_format.schema", "an object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs 'json_schema'"),
        ({"tool_choice": {}}, "tool_choice.function", "missing"),
        ({"tool_choice": 5}, "tool_choice", "'none', 'auto', 'required' or a function's name"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"stream_options": {"foo": 1}}, "stream_options.foo", "not supported"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag", "not supported"),
        ({"messages": 5}, "messages", "valid array"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string or a list of parts"),
        ({"max_tokens": 16.5}, "max_tokens", "valid integer"),
    ],
)
def test_errors_name_the_value(http: httpx.Client, fields: dict[str, Any], param: str, text: str) -> None:
    error = http.post("/v1/chat/completions", json={**CHAT, **fields}).json()["error"]
    assert error["param"] == param
    assert text in error["message"]


SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 7,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "seed": -3,
    "min_tokens": 2,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "prompt_logprobs": 2,
}


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
def test_sampling_fields_reach_the_engine(
    http: httpx.Client, clean: RunningServer, path: str, body: dict[str, Any]
) -> None:
    extra = {"stop_token_ids": [3, 4], "logit_bias": {"5": -7}, "max_tokens": 9, "priority": -2, "cache_salt": "salt"}
    assert http.post(path, json={**body, **SAMPLING, **extra}).status_code == 200
    (stream,) = clean.engine.submitted
    for field, value in SAMPLING.items():
        assert getattr(stream.sampling, field) == value, field
    assert stream.sampling.stop_token_ids == (3, 4)
    assert stream.sampling.logit_bias == {5: -7.0}
    assert stream.sampling.max_tokens == 9
    assert (stream.priority, stream.cache_salt) == (-2, "salt")


@pytest.mark.parametrize(("prompt", "ids"), [([72.0, 105.0], [[72, 105]]), ([[72.0], [105.0]], [[72], [105]])])
def test_whole_numbers_in_lists(http: httpx.Client, clean: RunningServer, prompt: Any, ids: Any) -> None:
    assert http.post("/v1/completions", json={"prompt": prompt}).status_code == 200
    assert sorted(stream.prompt for stream in clean.engine.submitted) == ids


@pytest.mark.parametrize("body", [{"prompt": ""}, {"content": ""}])
def test_an_empty_text_has_no_tokens(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/tokenize", json=body).json()
    assert (answer["tokens"], answer["count"]) == ([], 0)


def test_a_prompt_of_a_wrong_type(http: httpx.Client) -> None:
    error = http.post("/v1/completions", json={"prompt": {"text": "a"}}).json()["error"]
    assert error["param"] == "prompt"
    assert "a string, a list of strings, token ids or a list of lists of token ids" in error["message"]


def test_a_completion_without_max_tokens_has_openais(http: httpx.Client, clean: RunningServer) -> None:
    for fields in ({}, {"max_tokens": None}):
        assert http.post("/v1/completions", json={**COMPLETION, **fields}).status_code == 200
    assert [stream.sampling.max_tokens for stream in clean.engine.submitted] == [16, 16]
