"""`gllm eval mmlu-pro`, `gsm8k` and `ifeval`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from gllm.apps.bench.client import Endpoint
from gllm.apps.bench.serving import find_model
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.eval.flags import MaxTokensOption, RunFlags, ServerFlags, ShotsOption
from gllm.apps.cli.flag_groups import takes_groups
from gllm.apps.eval.accuracy import FORMULA
from gllm.apps.eval.answers import Answer
from gllm.apps.eval.dataset import require_columns
from gllm.apps.eval.gsm8k import GSM8K
from gllm.apps.eval.ifeval import IFEVAL
from gllm.apps.eval.mmlu_pro import MMLU_PRO
from gllm.apps.eval.report import as_json, judge, notes, table
from gllm.apps.eval.run import AnswerBook, Settings, choose
from gllm.apps.eval.task import Question, Task
from gllm.apps.figure import pyplot
from gllm.apps.request_progress import RequestProgress
from gllm.terminal import print_table

EPILOG = (
    "The folder of --output gets answers.jsonl, results.json and with --plot plot.png. A run that was killed "
    f"continues: an answer is used again if model, prompt and settings are the same.\n\n{FORMULA}"
)


@takes_groups
def mmlu_pro(
    server: ServerFlags,
    run: RunFlags,
    *,
    subjects: Annotated[str, typer.Option("--subjects", help="Only these, separated by commas.")] = "",
    shots: ShotsOption = 5,
    max_tokens: MaxTokensOption = 2048,
) -> None:
    """MMLU-Pro: multiple choice in 14 subjects, with chain of thought."""
    wanted = [subject.strip() for subject in subjects.split(",") if subject.strip()]
    evaluate(MMLU_PRO, server, run, shots=shots, max_tokens=max_tokens, subjects=wanted)


@takes_groups
def gsm8k(server: ServerFlags, run: RunFlags, *, shots: ShotsOption = 5, max_tokens: MaxTokensOption = 1024) -> None:
    """GSM8K: grade school mathematics, with chain of thought."""
    evaluate(GSM8K, server, run, shots=shots, max_tokens=max_tokens)


@takes_groups
def ifeval(server: ServerFlags, run: RunFlags, *, max_tokens: MaxTokensOption = 1280) -> None:
    """IFEval: instructions that a program can verify."""
    evaluate(IFEVAL, server, run, shots=0, max_tokens=max_tokens)


def evaluate(
    task: Task,
    server: ServerFlags,
    run: RunFlags,
    *,
    shots: int,
    max_tokens: int,
    subjects: list[str] | None = None,
) -> None:
    """Ask the questions that have no answer yet, judge all answers, and write the results."""
    with errors_in_one_line():
        fields = run.fields(max_tokens)
        if run.plot:
            pyplot()  # A missing matplotlib is told before the run, not after it.
        questions = choose(load_questions(task, run.data, shots), subjects or [], run.limit)
        served = asyncio.run(find_model(Endpoint.from_url(server.url, api_key=server.api_key), server.model))
        settings = Settings(
            model=served.name,
            endpoint=run.endpoint,
            shots=shots,
            fields=fields,
            concurrency=server.concurrency,
        )
        folder = run.output or Path("eval") / task.name / served.name.replace("/", "--")
        book = AnswerBook(task, questions, settings, folder / "answers.jsonl")
        if book.answers:
            print(f"gllm: {len(book.answers)} of {len(questions)} answers are there already", file=sys.stderr)
        asyncio.run(ask(book, server))
        result = judge(task, questions, book.answers, settings)
        columns, rows = table(result)
        print_table(columns, rows, title=f"{task.name}: {served.name}")
        for note in notes(result):
            print(f"gllm: {note}", file=sys.stderr)
        found = as_json(result, settings, url=server.url, data=run.data or task.dataset.name)
        (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        if run.plot:
            from gllm.apps.eval.plot import plot_result

            plot_result(result, folder / "plot.png")
    if result.failed:
        raise typer.Exit(1)


def load_questions(task: Task, data: str, shots: int) -> list[Question]:
    """Read the questions of a task, and worked examples if the prompts show any. Raises ValueError."""
    path = task.dataset.locate(data)
    tests = task.dataset.test_rows(path)
    if not tests:
        raise ValueError(f"--data {path}: there are no questions")
    examples = task.dataset.example_rows(path) if shots else []
    for rows in (tests, examples):
        require_columns(rows, task.columns, task.dataset)
    return task.load(tests, examples)


async def ask(book: AnswerBook, server: ServerFlags) -> None:
    """Ask the open questions, with a progress bar."""

    def count(answer: Answer) -> None:
        progress.update(answer.completion_tokens, failed=bool(answer.error))

    async with server.client() as client:
        with RequestProgress(len(book.open)) as progress:
            await book.fill(client, count)
