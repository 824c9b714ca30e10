"""SGLang's native endpoints: /generate, /v1/score and what its clients ask of the server."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
from gateway_fakes import EOS, VOCAB, RunningServer


def generate(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post("/generate", json={"text": "xy", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(http: httpx.Client, path: str = "/generate", **fields: Any) -> dict[str, Any]:
    answer = http.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def says(server: RunningServer, text: bytes) -> None:
    server.engine.reply = lambda *_: [*text, EOS]


# --- /generate ------------------------------------------------------------------------------------


def test_one_text(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"ab")
    clean.engine.cached_tokens = 1
    body = generate(http)
    assert (body["text"], body["output_ids"]) == ("ab", [*b"ab", EOS])
    meta = body["meta_info"]
    assert meta["finish_reason"] == {"type": "stop", "matched": EOS}
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (2, 3, 1)
    assert meta["e2e_latency"] > 0
    assert "output_token_logprobs" not in meta
    assert clean.engine.submitted[0].sampling.max_tokens == 128


@pytest.mark.parametrize(
    ("sampling", "finish"),
    [
        ({"max_new_tokens": 2}, {"type": "length", "length": 2}),
        ({"stop": ["cd"]}, {"type": "stop", "matched": "cd"}),
        ({"stop_regex": "[cd]+"}, {"type": "stop", "matched": "[cd]+"}),
    ],
)
def test_what_stopped_it(http: httpx.Client, clean: RunningServer, sampling: dict[str, Any], finish: Any) -> None:
    says(clean, b"abcde")
    assert generate(http, sampling_params=sampling)["meta_info"]["finish_reason"] == finish


def test_sampling_params(http: httpx.Client, clean: RunningServer) -> None:
    generate(
        http,
        sampling_params={
            "max_new_tokens": 9,
            "min_new_tokens": 2,
            "temperature": 0,
            "top_p": 0.5,
            "top_k": -1,
            "min_p": 0.1,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "repetition_penalty": 1.1,
            "sampling_seed": 7,
            "ignore_eos": True,
            "stop_token_ids": [5],
            "logit_bias": {"3": -1},
            "regex": "a+",
            "n": 1,
            "spaces_between_special_tokens": True,
            "json_schema": None,
        },
        rid="mine",
        lora_path=None,
        return_hidden_states=False,
        logprob_start_len=-1,
    )
    sent = clean.engine.submitted[0].sampling
    assert (sent.max_tokens, sent.min_tokens, sent.temperature, sent.top_p, sent.top_k) == (9, 2, 0, 0.5, -1)
    assert (sent.frequency_penalty, sent.presence_penalty, sent.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (sent.min_p, sent.seed, sent.ignore_eos, sent.stop_token_ids) == (0.1, 7, True, (5,))
    assert (sent.logit_bias, sent.grammar) == ({3: -1.0}, "regex:a+")


def test_batches(http: httpx.Client, clean: RunningServer) -> None:
    assert [one["text"] for one in generate(http, text=["a", "b"])] == ["Hello world"] * 2
    assert len(generate(http, sampling_params={"n": 2})) == 2
    answer = http.post("/generate", json={"input_ids": [[1, 2, 3], [4]]})
    assert [one["meta_info"]["prompt_tokens"] for one in answer.json()] == [3, 1]
    assert http.post("/generate", json={"input_ids": [1, 2, 3]}).json()["meta_info"]["prompt_tokens"] == 3


def test_logprobs_of_the_answer(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"a")
    fields: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True}
    meta = generate(http, **fields)["meta_info"]
    assert meta["output_token_logprobs"] == [[-0.5, 97, "a"], [-0.5, EOS, "<eos>"]]
    assert meta["output_top_logprobs"][0] == [[-0.5, 97, "a"], [-9999.0, 122, "z"]]
    assert meta["input_token_logprobs"] == meta["input_top_logprobs"] == []


@pytest.mark.parametrize(("start", "expected"), [(0, [None, -0.5, -0.5]), (1, [None, -0.5]), (9, [])])
def test_logprobs_of_the_prompt(http: httpx.Client, start: int, expected: list[Any]) -> None:
    fields: dict[str, Any] = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 1}
    meta = generate(http, text="xyz", sampling_params={"max_new_tokens": 0}, **fields)["meta_info"]
    assert [value for value, _, _ in meta["input_token_logprobs"]] == expected
    assert [token for _, token, _ in meta["input_token_logprobs"]] == [*b"xyz"][start:]
    assert [tops and tops[0][0] for tops in meta["input_top_logprobs"]] == expected
    assert (meta["completion_tokens"], meta["output_token_logprobs"]) == (0, [])


def test_logprobs_of_named_tokens(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"")
    body = generate(http, return_logprob=True, token_ids_logprob=[20, 10])
    assert body["meta_info"]["output_token_ids_logprobs"] == [[[-0.2, 20, None], [-0.1, 10, None]]]
    bodies = generate(http, text=["a", "b"], return_logprob=True, token_ids_logprob=[[20], [10, 20]])
    shown = [[token for _, token, _ in one["meta_info"]["output_token_ids_logprobs"][0]] for one in bodies]
    assert shown == [[20], [20, 10]]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"token_ids_logprob": [-1]}, "out-of-vocabulary"),
        ({"token_ids_logprob": [2_000_000_000]}, "out-of-vocabulary"),
        ({"text": ["a", "b"], "token_ids_logprob": [[0], [VOCAB]]}, "out-of-vocabulary"),
        ({"token_ids_logprob": [[0], [1, 2]]}, "flat list of integers"),
        ({"text": ["a", "b"], "token_ids_logprob": [[0]]}, "1 lists for 2 texts"),
        ({"token_ids_logprob": [0], "top_logprobs_num": 1}, "neither"),
    ],
)
def test_wrong_named_tokens(http: httpx.Client, fields: dict[str, Any], text: str) -> None:
    error = refused(http, **{"text": "hi", "return_logprob": True, **fields})
    assert error["param"] == "token_ids_logprob"
    assert text in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": ""}, "text"),
        ({"input_ids": []}, "input_ids"),
        ({"input_ids": [VOCAB]}, "input_ids"),
        ({"text": "a", "sampling_params": {"temperature": -1}}, "temperature"),
        ({"text": "a", "sampling_params": {"top_kk": 1}}, "sampling_params.top_kk"),
        ({"text": "a", "return_logprob": True, "logprob_start_len": 0, "stream": True}, "logprob_start_len"),
        ({"text": "a", "image_data": "x"}, "image_data"),
    ],
)
def test_refused(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    assert refused(http, **fields)["param"] == param


def events(http: httpx.Client, **fields: Any) -> list[Any]:
    text = http.post("/generate", json={"text": "xy", "stream": True, **fields}).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_stream(http: httpx.Client, clean: RunningServer) -> None:
    """Each event has the whole text so far."""
    says(clean, b"abc")
    chunks = events(http, return_logprob=True)
    assert [chunk["text"] for chunk in chunks] == ["a", "ab", "abc", "abc"]
    assert [chunk["meta_info"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4]
    assert [chunk["meta_info"]["finish_reason"] for chunk in chunks[:-1]] == [None] * 3
    assert chunks[-1]["meta_info"]["finish_reason"]["type"] == "stop"
    assert len(chunks[-1]["meta_info"]["output_token_logprobs"]) == 4
    assert "index" not in chunks[0]


def test_stream_of_several(http: httpx.Client) -> None:
    chunks = events(http, text=["a", "b"])
    last = {chunk["index"]: chunk["text"] for chunk in chunks}
    assert last == {0: "Hello world", 1: "Hello world"}


def test_stream_that_fails(http: httpx.Client, clean: RunningServer) -> None:
    clean.engine.fail_at = 2
    text = http.post("/generate", json={"text": "xy", "stream": True}).text
    assert "error" in json.loads(text.split("\n\n")[-2].removeprefix("data: "))
    assert http.post("/generate", json={"text": "xy"}).status_code == 500


# --- /v1/score ------------------------------------------------------------------------------------


def test_scores(http: httpx.Client, clean: RunningServer) -> None:
    fields: dict[str, Any] = {"query": "xy", "items": ["a", "bc"], "label_token_ids": [20, 10, 20]}
    body = http.post("/v1/score", json=fields).json()
    each = [math.exp(-0.2), math.exp(-0.1), math.exp(-0.2)]
    assert body["scores"] == [pytest.approx(each)] * 2
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
    assert (body["object"], body["model"]) == ("scoring", "tiny")
    assert [stream.prompt for stream in clean.engine.submitted] == [[*b"xya"], [*b"xybc"]]
    assert all(stream.sampling.max_tokens == 1 for stream in clean.engine.submitted)
    softmax = http.post("/v1/score", json={**fields, "apply_softmax": True}).json()["scores"]
    assert softmax == [pytest.approx([value / sum(each) for value in each])] * 2


def test_scores_of_token_ids(http: httpx.Client, clean: RunningServer) -> None:
    fields = {"query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [10], "item_first": True}
    assert len(http.post("/v1/score", json=fields).json()["scores"]) == 2
    assert [stream.prompt for stream in clean.engine.submitted] == [[3, 1, 2], [4, 5, 1, 2]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"label_token_ids": [999999]}, "label_token_ids"),
        ({"label_token_ids": []}, "label_token_ids"),
        ({"items": [[1]]}, "items"),
        ({"items": []}, "items"),
        ({"query": [1]}, "items"),
        ({"query": [1], "items": ""}, "items"),
        ({"query": 1}, "query"),
        ({"query": "a" * 200_000, "items": ["b"] * 100}, "query"),
    ],
)
def test_wrong_scores(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/score", json={"query": "a", "items": ["b"], "label_token_ids": [1], **fields})
    assert answer.status_code == 400
    body = answer.json()
    assert (body["object"], body["type"], body["code"], body["param"]) == ("error", "BadRequestError", 400, param)
    assert body["message"] == body["error"]["message"]


# --- the server -----------------------------------------------------------------------------------


def test_model_info(http: httpx.Client) -> None:
    info = http.get("/get_model_info").json()
    assert info == {"model_path": "tiny", "tokenizer_path": "tiny", "is_generation": True}
    assert http.get("/model_info").json() == info
