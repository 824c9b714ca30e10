"""`gllm eval`: the quality of a server's answers."""

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
from gllm.apps.cli.eval_agreement import agreement
from gllm.apps.cli.eval_options import MaxTokensOption, RunOptions, ShotsOption, takes_run_options
from gllm.apps.cli.parsing import Command
from gllm.apps.eval.accuracy import FORMULA
from gllm.apps.eval.answers import Answer
from gllm.apps.eval.client import EvalClient
from gllm.apps.eval.dataset import require_columns
from gllm.apps.eval.gsm8k import GSM8K
from gllm.apps.eval.ifeval import IFEVAL
from gllm.apps.eval.mmlu_pro import MMLU_PRO
from gllm.apps.eval.report import as_json, judge, notes, table
from gllm.apps.eval.run import AnswerBook, Settings, choose
from gllm.apps.eval.task import Question, Task
from gllm.apps.request_progress import RequestProgress
from gllm.terminal import print_table

app = typer.Typer(no_args_is_help=True, help="Measure the quality of a server's answers.")

_EPILOG = (
    "The folder of --output gets answers.jsonl, results.json and with --plot plot.png. A run that was killed "
    f"continues: an answer is used again if model, prompt and settings are the same.\n\n{FORMULA}"
)


@app.command("mmlu-pro", cls=Command, epilog=_EPILOG)
@takes_run_options
def mmlu_pro(
    subjects: Annotated[str, typer.Option("--subjects", help="Only these, separated by commas.")] = "",
    shots: ShotsOption = 5,
    max_tokens: MaxTokensOption = 2048,
    *,
    options: RunOptions,
) -> None:
    """MMLU-Pro: multiple choice in 14 subjects, with chain of thought."""
    wanted = [subject.strip() for subject in subjects.split(",") if subject.strip()]
    evaluate(MMLU_PRO, options, shots=shots, max_tokens=max_tokens, subjects=wanted)


@app.command("gsm8k", cls=Command, epilog=_EPILOG)
@takes_run_options
def gsm8k(shots: ShotsOption = 5, max_tokens: MaxTokensOption = 1024, *, options: RunOptions) -> None:
    """GSM8K: grade school mathematics, with chain of thought."""
    evaluate(GSM8K, options, shots=shots, max_tokens=max_tokens)


@app.command("ifeval", cls=Command, epilog=_EPILOG)
@takes_run_options
def ifeval(max_tokens: MaxTokensOption = 1280, *, options: RunOptions) -> None:
    """IFEval: instructions that a program can verify."""
    evaluate(IFEVAL, options, shots=0, max_tokens=max_tokens)


def evaluate(
    task: Task, options: RunOptions, *, shots: int, max_tokens: int, subjects: list[str] | None = None
) -> None:
    """Ask the questions that have no answer yet, judge all answers, and write the results."""
    with errors_in_one_line():
        fields = {"temperature": options.temperature, "max_tokens": max_tokens, **options.more_fields}
        questions = choose(load_questions(task, options.data, shots), subjects or [], options.limit)
        served = asyncio.run(find_model(Endpoint.from_url(options.url, api_key=options.api_key), options.model))
        settings = Settings(
            model=served.name,
            endpoint=options.endpoint,
            shots=shots,
            fields=fields,
            concurrency=options.concurrency,
        )
        folder = options.output or Path("eval") / task.name / served.name.replace("/", "--")
        book = AnswerBook(task, questions, settings, folder / "answers.jsonl")
        if book.answers:
            print(f"gllm: {len(book.answers)} of {len(questions)} answers are there already", file=sys.stderr)
        asyncio.run(ask(book, options))
        result = judge(task, questions, book.answers, settings)
        columns, rows = table(result)
        print_table(columns, rows, title=f"{task.name}: {served.name}")
        for note in notes(result):
            print(f"gllm: {note}", file=sys.stderr)
        found = as_json(result, settings, url=options.url, data=options.data or task.dataset.name)
        (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        if options.plot:
            from gllm.apps.eval.plot import plot_result

            plot_result(result, folder / "plot.png")
    if result.failed:
        raise typer.Exit(1)


def load_questions(task: Task, data: str, shots: int) -> list[Question]:
    """Read the questions of a task, and worked examples if the prompts show any. Raises ValueError."""
    path = task.dataset.locate(data)
    tests = task.dataset.test_rows(path)
    examples = task.dataset.example_rows(path) if shots else []
    for rows in (tests, examples):
        require_columns(rows, task.columns, task.dataset)
    return task.load(tests, examples)


async def ask(book: AnswerBook, options: RunOptions) -> None:
    """Ask the open questions, with a progress bar."""

    def count(answer: Answer) -> None:
        progress.update(answer.completion_tokens, failed=bool(answer.error))

    connections = EvalClient(
        options.url, api_key=options.api_key, timeout=options.timeout, connections=options.concurrency
    )
    async with connections as client:
        with RequestProgress(len(book.open)) as progress:
            await book.fill(client, count)


app.command("agreement", cls=Command)(agreement)


def register(parent: typer.Typer) -> None:
    """Add `eval` to the `gllm` command."""
    parent.add_typer(app, name="eval")
