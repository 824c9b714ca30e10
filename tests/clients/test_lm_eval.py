"""lm-eval over text completions (scores of given answers, remote tokenizer) and chat, and the commands of the docs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from conftest import GLLM, ROOT

QUESTIONS = [
    {"question": "The capital of France is", "choices": ["Paris", "Rome"], "label": 0},
    {"question": "The capital of Italy is", "choices": ["Paris", "Rome"], "label": 1},
    {"question": "Two and two makes", "choices": ["four", "purple"], "label": 0},
]
SCORED = """
task: scored
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
GENERATED = """
task: generated
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 16, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, text in (("scored", SCORED), ("generated", GENERATED)):
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_completions_are_scored_with_the_servers_tokenizer(server: str, model: str, tasks: TaskManager) -> None:
    arguments = f"model={model},base_url={server}/v1/completions,tokenizer_backend=remote,num_concurrent=2"
    results: Any = lm_eval.simple_evaluate(
        "local-completions", model_args=arguments, tasks=["scored", "generated"], task_manager=tasks, bootstrap_iters=0
    )
    assert results["results"]["scored"]["acc,none"] == 1.0


def test_chat_is_generated(server: str, model: str, tasks: TaskManager) -> None:
    results: Any = lm_eval.simple_evaluate(
        "local-chat-completions",
        model_args=f"model={model},base_url={server}/v1/chat/completions,num_concurrent=2",
        tasks=["generated"],
        task_manager=tasks,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    answers = [sample["resps"][0][0] for sample in results["samples"]["generated"]]
    assert len(answers) == len(QUESTIONS)
    assert all(answers)


COMMANDS = re.findall(r"^lm_eval (.+)$", (ROOT / "docs/evaluation.md").read_text(), re.MULTILINE)
SPLITS = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: test.jsonl}
---
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small data sets under their names on the hub: a run in it finds them before the hub's."""
    folder = tmp_path_factory.mktemp("published")
    sums = [{"question": f"What is {a} + 2?", "answer": f"{a} + 2 = {a + 2}.\n#### {a + 2}"} for a in range(2, 9)]
    gsm8k, mmlu_pro = folder / "openai/gsm8k", folder / "TIGER-Lab/MMLU-Pro"
    write(gsm8k / "train.jsonl", sums[:5])
    write(gsm8k / "test.jsonl", sums[5:])
    (gsm8k / "README.md").write_text(SPLITS)
    choices = [
        {
            "question_id": number,
            "question": one["question"],
            "options": ["1", str(number + 4), "0"],
            "answer": "B",
            "answer_index": 1,
            "cot_content": f"A: Let's think step by step. It is {number + 4}. The answer is (B).",
            "category": "math",
            "src": "",
        }
        for number, one in enumerate(sums)
    ]
    write(mmlu_pro / "validation.jsonl", choices[:5])
    write(mmlu_pro / "test.jsonl", choices[5:])
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, *command: str) -> str:
    # Without a cache of data sets from other runs.
    env = {**os.environ, "HF_HOME": str(folder / "home"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: re.search("--tasks ([a-z0-9_]+)", command)[1])
def test_the_commands_of_the_docs_run_as_written(server: str, model: str, published: Path, command: str) -> None:
    written = command.replace("http://127.0.0.1:8000", server).replace("Qwen/Qwen3-0.6B", model)
    program = str(Path(sys.executable).with_name("lm_eval"))
    printed = run(published, program, *shlex.split(written), "--gen_kwargs", "max_gen_toks=16")
    assert re.search(r"exact_match\|[^|]*\|\s*[01](\.\d+)?\|", printed), printed


def test_gllm_eval_reads_the_same_files(server: str, published: Path) -> None:
    flags = ["--url", server, "--data", "TIGER-Lab/MMLU-Pro", "--max-tokens", "32", "--output", "out"]
    run(published, GLLM, "eval", "mmlu-pro", *flags)
    found = json.loads((published / "out/results.json").read_text())
    assert (found["questions"], found["failed"], found["fewer_shots"]) == (2, 0, 0)
    assert set(found["accuracies"]["accuracy"]) == {"all", "math"}
