"""`gllm eval` against a server that answers as it is told: answers, resume, failures, tables, intervals."""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fixtures.eval_data import answer_server, write_mmlu_pro
from gllm.apps.cli.main import app
from gllm.apps.eval.accuracy import Z, accuracy, wilson
from gllm.apps.eval.answers import Answer, read_answers


def sums_only(prompt: str, body: dict[str, Any]) -> str:
    """Solve sums; any other question gets the answer (A)."""
    a, b = re.findall(r"What is (\d+) (?:\+|times) (\d+)\?", prompt)[-1]
    options = dict(re.findall(r"([A-J])\. (-?\d+)\n", prompt.rpartition("Options:")[2]))
    letter = next((letter for letter, option in options.items() if option == str(int(a) + int(b))), "A")
    return f"The answer is ({letter if ' + ' in prompt.rpartition('What is')[2] else 'A'})."


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_mmlu_pro(tmp_path / "data", 10))


def test_a_run_makes_a_table_json_and_a_plot(tmp_path: Path, data: str) -> None:
    out = tmp_path / "out"
    with answer_server(sums_only) as quiz:
        printed = run("mmlu-pro", "--url", quiz.url, "--data", data, "--output", str(out), "--plot", "--shots", "2")
    (all_row, math, physics) = [[c.strip() for c in r.split("|")[1:-1]] for r in printed.splitlines() if "[" in r]
    assert (all_row[:2], math) == (["all", "20"], ["math", "10", "100.0 [72.2, 100.0]", "100.0 [72.2, 100.0]"])
    assert physics[:2] == ["physics", "10"]
    found = json.loads((out / "results.json").read_text())
    assert found["accuracies"]["strict"]["math"]["value"] == 1.0
    assert found["accuracies"]["strict"]["all"]["correct"] == 10 + round(10 * float(physics[3].split()[0]) / 100)
    assert (found["model"], found["questions"], found["failed"], found["shots"]) == ("quiz", 20, 0, 2)
    assert "Wilson" in found["interval"]
    assert (out / "plot.png").read_bytes()[:4] == b"\x89PNG"
    body = quiz.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("quiz", 0.0, 2048)
    assert body["messages"][0]["content"].count("Question: ") == 3


def test_subjects_limit_endpoint_and_extra_fields(tmp_path: Path, data: str) -> None:
    flags = ["--data", data, "--limit", "3", "--endpoint", "completions", "--output", str(tmp_path)]
    with answer_server(sums_only) as quiz:
        run("mmlu-pro", "--url", quiz.url, *flags, "--subjects", "physics", "--extra-body", '{"top_k": 5}')
        unknown = run("mmlu-pro", "--url", quiz.url, *flags, "--subjects", "maths", status=1)
    assert "there is no 'maths'; the data has: math, physics" in unknown
    assert sorted(body["prompt"].rpartition("What is ")[2][:9] for body in quiz.bodies) == [
        "2 times 3", "3 times 4", "4 times 5",
    ]  # fmt: skip
    assert all((body["stop"], body["top_k"]) == (["Question:"], 5) for body in quiz.bodies)


def test_a_run_that_stopped_continues(tmp_path: Path, data: str) -> None:
    flags = ["--data", data, "--output", str(tmp_path), "--concurrency", "1"]
    busy = {"left": 7}

    def reply(prompt: str, body: dict[str, Any]) -> Any:
        busy["left"] -= 1
        return sums_only(prompt, body) if busy["left"] >= 0 else (400, {"error": "out of order"})

    with answer_server(reply) as quiz:
        failed = run("mmlu-pro", "--url", quiz.url, *flags, status=1)
        assert "13 questions have no answer and are not counted; the same command asks them again" in failed
        answers = tmp_path / "answers.jsonl"
        with answers.open("ab") as file:
            file.write(b'{"id": "cut off by a cra')
        busy["left"] = 100
        quiz.bodies.clear()
        assert "7 of 20 answers are there already" in run("mmlu-pro", "--url", quiz.url, *flags)
        assert len(quiz.bodies) == 13
        assert json.loads((tmp_path / "results.json").read_text())["failed"] == 0
        quiz.bodies.clear()
        run("mmlu-pro", "--url", quiz.url, *flags)
        assert not quiz.bodies
        run("mmlu-pro", "--url", quiz.url, *flags, "--max-tokens", "99")
        assert len(quiz.bodies) == 20  # other settings
    assert len(read_answers(answers)) == 40


def test_another_file_is_not_overwritten(tmp_path: Path, data: str) -> None:
    (tmp_path / "answers.jsonl").write_text("notes of mine\n")
    with answer_server(sums_only) as quiz:
        refused = run("mmlu-pro", "--url", quiz.url, "--data", data, "--output", str(tmp_path), status=1)
    assert "answers.jsonl:1 is not an answer of `gllm eval`: take another --output" in refused
    assert (tmp_path / "answers.jsonl").read_text() == "notes of mine\n"


def test_fewer_examples_where_the_context_is_short(tmp_path: Path, data: str) -> None:
    def reply(prompt: str, body: dict[str, Any]) -> Any:
        if prompt.count("Question: ") > 3:
            return 400, {
                "error": {"message": "the prompt exceeds the context length", "code": "context_length_exceeded"}
            }
        return sums_only(prompt, body)

    with answer_server(reply) as quiz:
        printed = run("mmlu-pro", "--url", quiz.url, "--data", data, "--output", str(tmp_path), "--limit", "1")
    assert "2 prompts had fewer examples than asked for" in printed
    assert {answer.shots for answer in read_answers(tmp_path / "answers.jsonl").values()} == {2}


def test_requests_in_flight_and_busy_servers(tmp_path: Path, data: str) -> None:
    lock, together = threading.Lock(), threading.Barrier(4)
    live = peak = total = 0

    def reply(prompt: str, body: dict[str, Any]) -> Any:
        nonlocal live, peak, total
        with lock:
            total, live = total + 1, live + 1
            peak, number = max(peak, live), total
        if number <= 4:
            together.wait(30)  # until four requests are here at once
        with lock:
            live -= 1
        return (503, {"error": "busy"}) if number <= 3 else sums_only(prompt, body)

    with answer_server(reply) as quiz:
        run("mmlu-pro", "--url", quiz.url, "--data", data, "--output", str(tmp_path), "--concurrency", "4")
    assert peak == 4
    assert total == len(quiz.bodies) == 23


def test_an_answer_with_reasoning_only_is_empty(tmp_path: Path, data: str) -> None:
    with answer_server(lambda prompt, body: None) as quiz:
        run("mmlu-pro", "--url", quiz.url, "--data", data, "--output", str(tmp_path), "--limit", "1")
    assert [answer.text for answer in read_answers(tmp_path / "answers.jsonl").values()] == ["", ""]


def test_mistakes_are_one_line(tmp_path: Path, data: str) -> None:
    assert "no server at http://127.0.0.1:9" in run("mmlu-pro", "--url", "127.0.0.1:9", "--data", data, status=1)
    assert "--extra-body must be a JSON object" in run("gsm8k", "--extra-body", "[]", status=1)
    assert "--extra-body is not JSON" in run("ifeval", "--extra-body", "{", status=1)


@pytest.mark.parametrize(("p", "n"), [(0.5, 10), (0.9, 1000), (0.123, 57.5), (0.0, 10), (1.0, 3)])
def test_wilson_intervals_are_the_values_that_the_share_does_not_refute(p: float, n: float) -> None:
    """By definition a bound p0 solves |p - p0| = z sqrt(p0 (1 - p0) / n)."""
    low, high = wilson(p, n)
    assert 0 <= low <= p <= high <= 1
    for bound in (low, high):
        if bound != p:
            assert abs(p - bound) == pytest.approx(Z * math.sqrt(bound * (1 - bound) / n))


def test_outcomes_of_one_question_are_not_independent() -> None:
    alone = accuracy([[True], [False]] * 50)
    assert (alone.value, alone.low, alone.high) == (0.5, *wilson(0.5, 100))
    # Each question's two outcomes are equal: they say no more than one.
    pairs = accuracy([[True, True], [False, False]] * 50)
    assert (pairs.outcomes, pairs.questions) == (200, 100)
    assert (pairs.low, pairs.high) == pytest.approx(wilson(0.5, 100))
    # Opposite outcomes say exactly what p is; the interval is that of as many outcomes as there are.
    assert accuracy([[True, False]] * 100).low == pytest.approx(wilson(0.5, 100)[0])


def test_failures_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = [Answer(id="1", request="a", text="yes"), Answer(id="2", request="b", error="HTTP 500")]
    path.write_text(
        "".join(json.dumps({"id": a.id, "request": a.request, "text": a.text, "error": a.error}) + "\n" for a in lines)
    )
    assert list(read_answers(path)) == [("1", "a")]
    assert read_answers(tmp_path / "none.jsonl") == {}
