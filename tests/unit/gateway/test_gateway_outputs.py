"""The fields of an answer beside its text: token ids, stop reasons, offsets of tokens."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest
from gateway_fakes import EOS, RunningServer

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PATHS = [TEXT, CHAT]


def ask(http: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    """Return the whole answer."""
    prompt = {"prompt": "xy"} if path == TEXT else {"messages": [{"role": "user", "content": "Hi"}]}
    answer = http.post(path, json={**prompt, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def chunks_of(http: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    prompt = {"prompt": "xy"} if path == TEXT else {"messages": [{"role": "user", "content": "Hi"}]}
    text = http.post(path, json={**prompt, **fields, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def says(server: RunningServer, text: bytes) -> None:
    server.engine.reply = lambda *_: [*text, EOS]


# --- token ids ------------------------------------------------------------------------------------


def test_token_ids(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"ab")
    choice = ask(http, TEXT, return_token_ids=True)["choices"][0]
    assert choice["prompt_token_ids"] == [*b"xy"]
    assert choice["token_ids"] == [*b"ab", EOS]
    body = ask(http, CHAT, return_token_ids=True)
    assert body["prompt_token_ids"] == [*b"<user>Hi\n<assistant>"]
    assert body["choices"][0]["token_ids"] == [*b"ab", EOS]


@pytest.mark.parametrize("value", [False, None])
@pytest.mark.parametrize("path", PATHS)
def test_no_token_ids(http: httpx.Client, path: str, value: bool | None) -> None:
    body = ask(http, path, return_token_ids=value)
    choice = body["choices"][0]
    assert (body if path == CHAT else choice)["prompt_token_ids"] is None
    assert choice["token_ids"] is None
    assert not any("token_ids" in chunk["choices"][0] for chunk in chunks_of(http, path, return_token_ids=value))


@pytest.mark.parametrize("per_output", [1, 2, 3])
def test_token_ids_stream(http: httpx.Client, clean: RunningServer, per_output: int) -> None:
    says(clean, b"abcde")
    clean.engine.tokens_per_output = per_output
    chunks = chunks_of(http, TEXT, return_token_ids=True, logprobs=0, return_tokens_as_token_ids=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["prompt_token_ids"] for choice in choices] == [[*b"xy"], *[None] * (len(choices) - 1)]
    ids = [token for choice in choices for token in choice["token_ids"]]
    assert ids == [*b"abcde", EOS]
    assert [token for choice in choices for token in choice["logprobs"]["tokens"]] == [f"token_id:{id}" for id in ids]


@pytest.mark.parametrize("per_output", [1, 2, 3])
def test_token_ids_stream_chat(http: httpx.Client, clean: RunningServer, per_output: int) -> None:
    says(clean, b"abcde")
    clean.engine.tokens_per_output = per_output
    chunks = chunks_of(http, CHAT, return_token_ids=True, stream_options={"include_usage": True})
    assert chunks[0]["prompt_token_ids"] == [*b"<user>Hi\n<assistant>"]
    assert chunks[0]["usage"] is None
    assert all("prompt_token_ids" not in chunk for chunk in chunks[1:])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [token for choice in choices for token in choice.get("token_ids", [])] == [*b"abcde", EOS]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "abcde"


def test_token_ids_of_text_that_is_held_back(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"abcde")
    for path in PATHS:
        chunks = chunks_of(http, path, return_token_ids=True, stop="bcd")
        ids = [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])]
        assert ids == [*b"abcd"], "all that were generated, with those of the stop string"


def test_tokens_as_token_ids(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"a")
    logprobs = ask(http, TEXT, logprobs=1, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:97", f"token_id:{EOS}"]
    assert logprobs["top_logprobs"] == [{"token_id:97": -0.5}, {f"token_id:{EOS}": -0.5}]
    assert logprobs["text_offset"] == [0, 1]
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True}
    entry = ask(http, CHAT, **fields)["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["bytes"], entry["top_logprobs"][0]["token"]) == ("token_id:97", [97], "token_id:97")


# --- stop reasons ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("fields", "finish", "stop_reason", "matched_stop"),
    [
        ({}, "stop", None, EOS),
        ({"stop": ["zz", "cd"]}, "stop", "cd", "cd"),
        ({"stop": "e"}, "stop", "e", "e"),
        ({"max_tokens": 3}, "length", None, None),
        ({"max_tokens": 3, "stop": "c"}, "stop", "c", "c"),
        ({"stop_token_ids": [EOS]}, "stop", None, EOS),
    ],
)
def test_stop_reasons(
    http: httpx.Client,
    clean: RunningServer,
    path: str,
    fields: dict[str, Any],
    finish: str,
    stop_reason: Any,
    matched_stop: Any,
) -> None:
    says(clean, b"abcde")
    expected = (finish, stop_reason, matched_stop)
    choice = ask(http, path, **fields)["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"], choice["matched_stop"]) == expected
    choices = [chunk["choices"][0] for chunk in chunks_of(http, path, **fields)]
    assert all("stop_reason" not in choice for choice in choices[:-1])
    last = choices[-1]
    assert (last["finish_reason"], last["stop_reason"], last["matched_stop"]) == expected


def test_a_stop_token_of_the_request(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"ab")
    clean.engine.stop_at = {ord("b")}
    choice = ask(http, TEXT, stop_token_ids=[ord("b")])["choices"][0]
    assert (choice["text"], choice["stop_reason"], choice["matched_stop"]) == ("a", ord("b"), ord("b"))


# --- stop strings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_min_tokens_holds_back_stop_strings(http: httpx.Client, clean: RunningServer, path: str) -> None:
    says(clean, b"1 2 3 4 5 6")
    body = ask(http, path, stop=" ", min_tokens=4, max_tokens=20)
    choice = body["choices"][0]
    text = choice["text"] if path == TEXT else choice["message"]["content"]
    assert (text, choice["stop_reason"], body["usage"]["completion_tokens"]) == ("1 2 3", " ", 6)


def test_thousands_of_stop_strings(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b"abcde")
    stops = [f"{number:05d}" for number in range(20_000)]
    assert ask(http, TEXT, stop=stops)["choices"][0]["text"] == "abcde"
    assert ask(http, TEXT, stop=[*stops, "cd"])["choices"][0]["text"] == "ab"
    assert ask(http, TEXT, stop=["c" * 2_000_000, "d"])["choices"][0]["text"] == "abc"


# --- echo -----------------------------------------------------------------------------------------


def test_echo_in_chat(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, b" there")
    messages = [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "Hello"}]
    fields: dict[str, Any] = {"messages": messages, "echo": True, "continue_final_message": True}
    assert ask(http, CHAT, **fields)["choices"][0]["message"]["content"] == "Hello there"
    chunks = chunks_of(http, CHAT, **fields, n=2)
    for index in (0, 1):
        parts = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(parts) == "Hello there"


def test_echo_in_chat_of_an_answer_of_its_own(http: httpx.Client, clean: RunningServer) -> None:
    """As in vLLM: the final message precedes the answer only if the answer continues it, or it is the assistant's."""
    says(clean, b"ok")
    assert ask(http, CHAT, echo=True)["choices"][0]["message"]["content"] == "ok"
    asked = [{"role": "user", "content": "Hi"}]
    continued = ask(http, CHAT, messages=asked, echo=True, add_generation_prompt=False)
    assert continued["choices"][0]["message"]["content"] == "Hiok"


# --- offsets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("prompt", ["x\u00e9y \U0001f600", [*"x\u00e9y".encode()]])
def test_text_offset(http: httpx.Client, clean: RunningServer, echo: bool, prompt: Any) -> None:
    """Characters that span several tokens: each token is one byte."""
    says(clean, "a\u00e9 \U0001f600, this\u20ac!".encode())
    fields: dict[str, Any] = {"prompt": prompt, "echo": echo, "logprobs": 0, "max_tokens": 99}
    whole = ask(http, TEXT, **fields)["choices"][0]
    offsets, text = whole["logprobs"]["text_offset"], whole["text"]
    for token, offset in zip(whole["logprobs"]["tokens"][:-1], offsets, strict=False):
        assert text[offset : offset + 1] == token or token == "\ufffd"
    assert offsets[-1] == len(text), "EOS is after the text"
    assert offsets[-2] == len(text) - 1
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks_of(http, TEXT, **fields)]
    assert [offset for part in parts for offset in part["text_offset"]] == offsets


# --- stop patterns --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_stop_regex(http: httpx.Client, clean: RunningServer, path: str) -> None:
    says(clean, b"one 12 two")
    for pattern in ("[0-9]{2}", ["x", "[0-9]{2}"]):
        body = ask(http, path, stop_regex=pattern)
        choice = body["choices"][0]
        text = choice["text"] if path == TEXT else choice["message"]["content"]
        assert (text, choice["finish_reason"], choice["matched_stop"]) == ("one 12", "stop", "[0-9]{2}")
        assert body["usage"]["completion_tokens"] == 6
    assert not ask(http, path, stop_regex="[xyz]")["choices"][0]["stop_reason"]
    assert ask(http, path, stop_regex="[ot]", min_tokens=5)["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("path", PATHS)
def test_invalid_stop_regex(http: httpx.Client, path: str) -> None:
    prompt = {"prompt": "xy"} if path == TEXT else {"messages": [{"role": "user", "content": "Hi"}]}
    answer = http.post(path, json={**prompt, "stop_regex": ["a", "(b"]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "stop_regex")
    assert error["message"] == "stop_regex[1]: unclosed group"


def test_stop_regex_that_grows_too_large(http: httpx.Client, clean: RunningServer) -> None:
    says(clean, bytes(random.Random(0).choices(b"ac", k=490)))
    clean.engine.tokens_per_output = 490
    answer = http.post(TEXT, json={"prompt": "x", "max_tokens": 490, "stop_regex": "a" + "(.|a.c|aa){0,400}" * 3 + "b"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "stop_regex")
    assert "too many states" in error["message"]


@pytest.mark.parametrize("field", ["no_stop_trim", "include_stop_str_in_output"])
def test_include_stop_str_in_output(http: httpx.Client, clean: RunningServer, field: str) -> None:
    says(clean, b"abcde")
    choice = ask(http, TEXT, **{"stop": "cd", field: True})["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == ("abcd", "cd")
    assert ask(http, TEXT, **{"stop": "cd", field: False})["choices"][0]["text"] == "ab"


# --- allowed and forbidden tokens -------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_allowed_token_ids_and_bad_words(http: httpx.Client, clean: RunningServer, path: str) -> None:
    ask(http, path, allowed_token_ids=[5, 7], bad_words=["ab", " c"])
    sampling = clean.engine.submitted[-1].sampling
    assert sampling.allowed_token_ids == (5, 7)
    assert sampling.bad_word_ids == ((97, 98), (32, 97, 98), (99,), (32, 99))
    ask(http, path, allowed_token_ids=[], bad_words=[])
    assert clean.engine.submitted[-1].sampling.bad_word_ids == ()


@pytest.mark.parametrize(("path", "asked"), [(CHAT, True), (TEXT, 1)])
def test_logprob_token_ids(http: httpx.Client, clean: RunningServer, path: str, asked: bool | int) -> None:
    ask(http, path, logprobs=asked, logprob_token_ids=[5, 7])
    assert clean.engine.submitted[-1].sampling.logprob_token_ids == (5, 7)
    ask(http, path, logprob_token_ids=[])
    assert clean.engine.submitted[-1].sampling.logprob_token_ids == ()


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"logprob_token_ids": [5]}, "logprob_token_ids", "needs logprobs"),
        ({"logprob_token_ids": [300]}, "logprob_token_ids", "out of vocabulary: the model has 300 tokens"),
        ({"logprob_token_ids": [1] * 129}, "logprob_token_ids", "at most 128"),
        ({"allowed_token_ids": [300]}, "allowed_token_ids", "out of vocabulary: the model has 300 tokens"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]", "greater than or equal to 0"),
        ({"allowed_token_ids": [97], "bad_words": ["a"]}, "allowed_token_ids", "bad_words leave none"),
        ({"bad_words": "a"}, "bad_words", "array"),
        ({"bad_words": [""]}, "bad_words[0]", "at least 1 character"),
        ({"bad_words": ["a" * 40000]}, "bad_words", "must not exceed"),
        ({"bad_words": ["a"] * 1025}, "bad_words", "at most 1024"),
        ({"stop_regex": ["a"] * 17}, "stop_regex", "at most 16"),
        ({"stop_regex": 5}, "stop_regex", "a string or a list of strings"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "greater than or equal to -1"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "must be -1, or from 1"),
        ({"truncate_prompt_tokens": 510, "max_tokens": 5}, "truncate_prompt_tokens", "from 1 to the 507"),
        ({"truncation_side": "up", "truncate_prompt_tokens": 5}, "truncation_side", "'left' or 'right'"),
    ],
)
def test_bounds(http: httpx.Client, fields: dict[str, Any], param: str, text: str) -> None:
    for path, prompt in ((TEXT, {"prompt": "xy"}), (CHAT, {"messages": [{"role": "user", "content": "Hi"}]})):
        answer = http.post(path, json={**prompt, **fields})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert text in error["message"]


# --- truncated prompts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, b"hij"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, b"abc"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "left"}, b"hij"),
        ({"truncate_prompt_tokens": 100}, b"abcdefghij"),
        ({"truncate_prompt_tokens": None}, b"abcdefghij"),
    ],
)
@pytest.mark.parametrize("ids", [False, True])
def test_truncate_prompt_tokens(
    http: httpx.Client, clean: RunningServer, fields: dict[str, Any], kept: bytes, ids: bool
) -> None:
    prompt: Any = [*b"abcdefghij"] if ids else "abcdefghij"
    choice = ask(http, TEXT, prompt=prompt, echo=True, return_token_ids=True, **fields)["choices"][0]
    assert clean.engine.submitted[-1].prompt == choice["prompt_token_ids"] == [*kept]
    assert choice["text"] == kept.decode() + "Hello world"


def test_truncated_to_what_fits(http: httpx.Client, clean: RunningServer) -> None:
    """Also a text that is too long for any tokenization."""
    body = ask(http, TEXT, prompt="a" * 100_000 + "b", truncate_prompt_tokens=-1, max_tokens=12)
    assert body["usage"]["prompt_tokens"] == 500
    assert clean.engine.submitted[-1].prompt[-1] == ord("b")
    messages = [{"role": "user", "content": "a" * 100_000}]
    body = ask(http, CHAT, messages=messages, truncate_prompt_tokens=-1, max_tokens=12)
    assert body["usage"]["prompt_tokens"] == 500
    assert bytes(clean.engine.submitted[-1].prompt).endswith(b"aaa\n<assistant>")
    assert ask(http, CHAT, messages=messages, truncate_prompt_tokens=-1)["usage"]["completion_tokens"] == 1
