"""`gllm generate`: every line gets an answer or a record of its error, and a resumed run repeats no line."""

import contextlib
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fake_engine import Fakes
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gllm import LLM, SamplingParams
from gllm.apps.cli.generate import run_batch
from gllm.apps.cli.main import app
from gllm.apps.offline.batch_input import BadLine, BatchRequest, parse_line, read_requests
from gllm.apps.offline.batch_output import finished_ids
from gllm.apps.request_progress import RequestProgress
from gllm.config import Config


def parse(line: object, number: int = 3) -> BatchRequest | BadLine:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    return parse_line(raw, number, SamplingParams)


def test_simple_lines() -> None:
    request = parse({"prompt": "hi", "max_tokens": 5, "temperature": 0, "stop": "x", "id": 7})
    assert request == BatchRequest("7", 3, "hi", SamplingParams(max_tokens=5, temperature=0.0, stop=("x",)), chat=False)
    assert parse({"prompt": [1, 2]}).custom_id == "line-3"
    assert parse({"messages": [{"role": "user", "content": "hi"}]}).chat


def test_openai_lines() -> None:
    body = {
        "model": "whatever",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 9,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": -100},
        "seed": None,
    }
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    request = parse(line)
    assert request.sampling == SamplingParams(max_tokens=9, logprobs=2, logit_bias={5: -100.0})


def test_fields_that_ask_for_nothing_are_passed_over_as_over_http() -> None:
    line = {"prompt": "a", "user": "me", "metadata": {"k": "v"}, "best_of": 1, "tools": [], "logprobs": False}
    assert parse(line).sampling == SamplingParams()


def test_response_formats() -> None:
    def grammar(response_format: object) -> str | None:
        return parse({"prompt": "a", "response_format": response_format}).sampling.grammar

    assert grammar({"type": "text"}) is None
    assert grammar({"type": "json_object"})
    assert "boolean" in grammar({"type": "json_schema", "json_schema": {"schema": {"type": "boolean"}}})


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"prompt": "a", "response_format": {"type": "json_schema"}}, "response_format"),
        ({"prompt": "a", "response_format": "json"}, "response_format"),
        (b"{torn", "json"),
        ([1], "json"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "messages": []}, "prompt"),
        ({"messages": ["a"]}, "messages"),
        ({"messages": []}, "messages"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "temperature": 1000}, "temperature"),
        ({"prompt": "a", "tools": [{"type": "function"}]}, "tools"),
        ({"prompt": "a", "audio": {"voice": "x"}}, "audio"),
        ({"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "low"}, "reasoning_effort"),
        ({"prompt": "a", "top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "a", "stream": True}, "stream"),
        ({"prompt": "a", "min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"custom_id": ["x"], "prompt": "a"}, "custom_id"),
        ({"body": "text"}, "body"),
        ({"body": {"prompt": "a"}, "url": "/v1/embeddings"}, "url"),
        ({"body": {"prompt": "a"}, "url": "/v1/chat/completions"}, "prompt"),
        ({"body": {"prompt": "a"}, "prority": 1}, "prority"),
        ({"messages": [{"role": "user", "content": "a"}], "logprobs": 3}, "logprobs"),
    ],
)
def test_bad_lines_name_line_and_field(line: object, field: str) -> None:
    bad = parse(line)
    assert isinstance(bad, BadLine)
    assert (bad.line, bad.field) == (3, field)
    assert bad.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["prompt", "messages", "max_tokens", "temperature", "stop", "n", "logit_bias", "custom_id", "body"]
)


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.dictionaries(keys, json_values, max_size=4))
def test_no_line_can_break_the_parser(line: object) -> None:
    assert isinstance(parse(line), BatchRequest | BadLine)


def test_ids_must_differ() -> None:
    lines = [b'{"prompt": "a", "id": "x"}\n', b"\n", b'{"prompt": "b", "id": "x"}\n']
    first, second = read_requests(lines, SamplingParams)
    assert isinstance(first, BatchRequest)
    assert (second.custom_id, second.line, second.field) == ("line-3", 3, "custom_id")


def run(llm: LLM, lines: list[object], out: Path) -> RequestProgress:
    """One run of the command after its start-up."""
    raw = [json.dumps(line).encode() + b"\n" if not isinstance(line, bytes) else line for line in lines]
    progress = RequestProgress(len(raw), stream=io.StringIO())
    done = finished_ids(out)
    default = partial(llm.default_sampling, max_tokens=40)
    with out.open("a") as file:
        run_batch(llm, read_requests(raw, default, done), file, progress, "fake")
    return progress


class Command:
    """`gllm generate` with a fake engine in place of the real one."""

    def __init__(self, llm: LLM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads = 0
        self.input, self.output = folder / "in", folder / "out"
        model = folder / "Tiny"
        model.mkdir()
        (model / "config.json").write_text("{}")
        self._model = str(model)

        @contextlib.contextmanager
        def offline_llm(config: Config) -> Iterator[LLM]:
            self.loads += 1
            yield llm

        monkeypatch.setattr("gllm.apps.cli.generate.offline_llm", offline_llm)

    def __call__(self, *lines: object, raw: str = "", more: tuple[str, ...] = ()) -> int:
        self.input.write_text(raw or "".join(json.dumps(line) + "\n" for line in lines))
        arguments = [
            "generate",
            self._model,
            "-i",
            str(self.input),
            "-o",
            str(self.output),
            "--max-tokens",
            "20",
            *more,
        ]
        result = CliRunner().invoke(app, arguments)
        self.said = result.output
        return result.exit_code


@pytest.fixture
def command(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(llm, tmp_path, monkeypatch)


def test_failed_lines_are_retried(command: Command) -> None:
    good, bad = {"prompt": "abc", "id": "a"}, {"prompt": "!fail", "id": "b"}
    assert command(good, bad) == 1
    assert records(command.output)["b"]["error"]["message"] == "the sampler choked"
    answer = records(command.output)["a"]
    assert command(good, bad) == 1
    assert command(good, {"prompt": "xyz", "id": "b"}) == 0
    found = records(command.output)
    assert found["a"] == answer
    assert found["b"]["response"]["body"]["choices"][0]["text"] == "XYZ"
    assert command.loads == 3


def test_a_sharegpt_file_is_answered_and_resumed(command: Command) -> None:
    def conversation(name: str | None, question: str) -> dict:
        turns = [
            {"from": "gpt", "value": "Hello!"},
            {"from": "human", "value": question},
            {"from": "gpt", "value": "x"},
        ]
        return {"id": name, "conversations": turns}

    talks = [conversation("a", "one"), conversation("a", "two"), conversation(None, "x" * 500), {"conversations": []}]
    assert command(raw=json.dumps(talks, indent=1)) == 1
    found = records(command.output)
    assert found["a"]["response"]["body"]["choices"][0]["message"]["content"] == "USER:ONE\n"
    assert found["a-2"]["response"]["body"]["choices"][0]["message"]["content"] == "USER:TWO\n"
    assert set(found) == {"a", "a-2", "conversation-3"}
    talks[2]["conversations"][1]["value"] = "three"
    assert command(raw=json.dumps(talks)) == 0
    assert records(command.output)["conversation-3"]["error"] is None
    assert command(raw='[{"conversations": 5}]') == 1
    assert "not a ShareGPT file" in command.said


def test_no_model_is_loaded_if_no_line_needs_it(command: Command) -> None:
    assert command({"prompt": "abc", "id": "a"}) == 0
    assert command({"prompt": "abc", "id": "a"}) == 0
    assert "1 lines have an answer already" in command.said
    assert command({"prompt": "abc", "id": "a"}, {"prompt": ""}) == 1
    assert records(command.output)["line-2"]["error"]["param"] == "prompt"
    assert command() == 0
    assert command.loads == 1


def test_a_line_may_name_only_the_served_model(command: Command) -> None:
    lines = [{"prompt": "a", "id": name or "none", "model": name} for name in ("Tiny", "", None, "gpt-4o-mini")]
    lines[2]["id"] = "null"
    assert command(*lines) == 1
    found = records(command.output)
    assert [name for name, record in found.items() if record["error"]] == ["gpt-4o-mini"]
    assert found["gpt-4o-mini"]["error"]["param"] == "model"
    assert "this run has 'Tiny'" in found["gpt-4o-mini"]["error"]["message"]
    assert command(lines[3], more=("--served-model-name", "gpt-4o-mini")) == 0
    assert records(command.output)["gpt-4o-mini"]["response"]["body"]["model"] == "gpt-4o-mini"


def test_output_lines_have_openais_format(command: Command) -> None:
    command({"prompt": "abc", "id": "a"}, {"prompt": "", "id": "b"})
    found = records(command.output)
    assert found["a"].keys() == found["b"].keys() == {"id", "custom_id", "response", "error"}
    assert found["a"]["id"].startswith("batch_req_")
    assert found["a"]["id"] != found["b"]["id"]
    assert found["a"]["response"].keys() == {"status_code", "request_id", "body"}
    assert found["a"]["response"]["body"]["id"].startswith("cmpl-")


def test_missing_files_are_named_in_the_error(command: Command) -> None:
    assert command(more=("-i", "/no/lines.jsonl")) == 1
    assert "gllm: error: --input /no/lines.jsonl: there is no such file" in command.said
    assert command({"prompt": "a"}, more=("-o", "/no/folder/out")) == 1
    assert "/no/folder/out" in command.said


def records(path: Path) -> dict[str, dict]:
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({record["custom_id"] for record in listed}) == len(listed), "an id appears twice"
    return {record["custom_id"]: record for record in listed}


def test_answers_errors_and_the_model_defaults(llm: LLM, fakes: Fakes, tmp_path: Path) -> None:
    lines = [
        {"prompt": "abc", "id": "text"},
        {"messages": [{"role": "user", "content": "hi"}], "id": "chat", "logprobs": True},
        b"not json\n",
        {"prompt": "!fail", "id": "failing"},
        {"prompt": "x" * 100, "id": "long"},
        {"prompt": "ab", "id": "two", "n": 2, "max_tokens": 1, "temperature": 0},
    ]
    progress = run(llm, lines, tmp_path / "out")
    assert (progress.done, progress.failed) == (6, 3)
    found = records(tmp_path / "out")
    assert found["text"]["response"]["body"]["choices"][0]["text"] == "ABC"
    assert found["text"]["response"]["body"]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choice = found["chat"]["response"]["body"]["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "USER:HI\n"}
    assert choice["logprobs"]["content"][0]["token"] == "U"
    assert found["line-3"]["error"]["line"] == 3
    assert found["failing"]["error"]["message"] == "the sampler choked"
    assert found["long"]["error"]["line"] == 5
    assert found["long"]["error"]["param"] == "prompt"
    assert len(found["two"]["response"]["body"]["choices"]) == 2
    first = next(sampling for _, sampling in fakes.client.submitted)
    assert (first.temperature, first.max_tokens) == (0.5, 40)


def test_resuming_after_a_torn_line_loses_and_repeats_nothing(llm: LLM, fakes: Fakes, tmp_path: Path) -> None:
    lines: list[object] = [{"prompt": f"p{number}"} for number in range(8)]
    whole = tmp_path / "whole"
    run(llm, lines, whole)
    expected = {key: record["response"]["body"]["choices"] for key, record in records(whole).items()}
    data = whole.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in (0, 5, ends[2] - 1, ends[2], ends[4] + 7, len(data)):
        torn = tmp_path / f"cut-{cut}"
        torn.write_bytes(data[:cut])
        before = len(fakes.client.submitted)
        run(llm, lines, torn)
        kept = sum(end <= cut for end in ends)
        assert len(fakes.client.submitted) - before == 8 - kept
        assert {key: record["response"]["body"]["choices"] for key, record in records(torn).items()} == expected


def test_a_foreign_output_file_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my notes\nmore\n")
    with pytest.raises(ValueError, match=r"notes.txt:1 is not a record"):
        finished_ids(foreign)
    assert foreign.read_text() == "my notes\nmore\n"
    assert finished_ids(tmp_path / "absent") == frozenset()


def test_answers_before_the_engine_died_are_kept(llm: LLM, fakes: Fakes, tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def die() -> None:
        fakes.group.die("worker-0 was killed")

    def lines():
        for number in range(3):
            yield json.dumps({"prompt": f"p{number}"}).encode()
        for number in range(3):
            yield json.dumps({"prompt": "!hang", "id": f"hang-{number}"}).encode()
        llm.engine.call(die())

    requests = read_requests(lines(), llm.default_sampling)
    with out.open("w") as file, pytest.raises(RuntimeError, match="worker-0 was killed"):
        run_batch(llm, requests, file, RequestProgress(None, stream=io.StringIO()), "fake")
    assert finished_ids(out) <= {"line-1", "line-2", "line-3"}
    assert finished_ids(out)
