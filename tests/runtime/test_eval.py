"""`gllm eval` as real processes against `gllm serve`: killed and continued; beside transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, until
from typer.testing import CliRunner

from fixtures.eval_data import write_mmlu_pro
from fixtures.tiny_models import write_hf
from gllm.apps.cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=4096)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(folder, tmp_path_factory.mktemp("server") / "stderr", "--dtype", "float32")
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()


def start(server: Server, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gllm.apps.cli.main", "eval", *arguments, "--url", f"127.0.0.1:{server.port}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_continues(server: Server, tmp_path: Path) -> None:
    data, out = write_mmlu_pro(tmp_path / "data", 8, suffix=".parquet"), tmp_path / "out"
    flags = ["--data", str(data), "--output", str(out), "--max-tokens", "24", "--concurrency", "2"]
    answers = out / "answers.jsonl"
    first = start(server, "mmlu-pro", *flags)
    until(lambda: answers.exists() and answers.read_bytes().count(b"\n") >= 3, 60)
    first.kill()
    first.communicate()
    kept = answers.read_bytes().rpartition(b"\n")[0] + b"\n"
    number = kept.count(b"\n")
    assert number < 16
    second = start(server, "mmlu-pro", *flags)
    printed, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert f"{number} of 16 answers are there already" in errors
    assert answers.read_bytes().startswith(kept)
    found = json.loads((out / "results.json").read_text())
    assert (found["questions"], found["failed"], found["fewer_shots"]) == (16, 0, 0)
    assert {row.split("|")[1].strip() for row in printed.splitlines()[2:]} == {"all", "math", "physics"}


def test_agreement_passes_for_the_served_weights_only(server: Server, folder: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.json"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("the quick", "a dog", "jumps over")))
    flags = ["eval", "agreement", "--url", f"127.0.0.1:{server.port}", "--prompts", str(prompts), "--max-tokens", "16"]
    flags += ["--window", "200", "--min-agreement", "1", "--output", str(out)]
    same = CliRunner().invoke(app, [*flags, "--reference", str(folder)])
    assert same.exit_code == 0, same.output
    assert "100.00 %" in same.output
    found = json.loads(out.read_text())
    assert found["passed"]
    assert found["equal_answers"] == found["answers"] == 3
    assert abs(found["perplexity_increase"]) < 1e-4
    other = write_hf("llama", tmp_path / "other", seed=1)
    different = CliRunner().invoke(app, [*flags, "--reference", str(other)])
    assert different.exit_code == 1
    assert "is below --min-agreement 1" in different.output
    assert not json.loads(out.read_text())["passed"]
