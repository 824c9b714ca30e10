"""lm-eval over text completions (scores of given answers, remote tokenizer) and chat."""

from __future__ import annotations

import json
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

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
