"""Run GuideLLM and AIPerf as commands: every request succeeds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers

REQUESTS = 6


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte tokenizer, from which GuideLLM makes prompts without a hub."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def run(command: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command)), *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm(server: str, model: str, tokenizer: Path, tmp_path: Path, endpoint: str) -> None:
    report = tmp_path / "report.json"
    run(
        "guidellm",
        "run",
        "--backend",
        f"kind=openai_http,target={server},model={model},request_format={endpoint}",
        "--profile",
        "kind=concurrent,streams=2",
        "--constraint",
        f"kind=max_requests,count={REQUESTS}",
        "--tokenizer",
        f"kind=huggingface_auto,model={tokenizer}",
        "--data",
        "kind=synthetic_text,prompt_tokens=32,output_tokens=8",
        "--output",
        f"kind=json,path={report}",
        "--disable-console",
        folder=tmp_path,
    )
    totals: Any = json.loads(report.read_text())["benchmarks"][0]["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (REQUESTS, 0)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_aiperf(server: str, model: str, tmp_path: Path, endpoint: str) -> None:
    run(
        "aiperf",
        "profile",
        "--model",
        model,
        "--url",
        server,
        "--endpoint-type",
        endpoint,
        "--streaming",
        "--tokenizer",
        "builtin",
        "--request-count",
        str(REQUESTS),
        "--concurrency",
        "2",
        "--isl",
        "32",
        "--osl",
        "8",
        "--ui",
        "none",
        "--artifact-dir",
        str(tmp_path / "artifacts"),
        folder=tmp_path,
    )
    exported = next((tmp_path / "artifacts").rglob("profile_export_aiperf.csv")).read_text()
    rows = {row[0]: row[1] for row in csv.reader(exported.splitlines()) if len(row) == 2}
    assert float(rows["Request Count"]) == REQUESTS
    assert float(rows.get("Error Request Count", 0)) == 0
