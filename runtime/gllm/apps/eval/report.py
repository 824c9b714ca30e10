"""The result of a benchmark as a table and as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from gllm.apps.eval.accuracy import FORMULA, Accuracies, Accuracy, accuracies
from gllm.apps.eval.answers import Answer
from gllm.apps.eval.run import Settings
from gllm.apps.eval.task import Question, Task

ALL = "all"
"""The name of the row with everything."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found. Questions that failed are not judged."""

    task: str
    model: str
    accuracies: Accuracies
    questions: int
    failed: int
    truncated: int
    """Answers that ended at max_tokens."""
    fewer_shots: int
    """Answers whose prompt had fewer worked examples than asked for, because the context is too short."""


def judge(task: Task, questions: Sequence[Question], answers: dict[str, Answer], settings: Settings) -> Result:
    """Judge all answers. Raises ValueError if there is none."""
    good = [(question, answer) for question in questions if not (answer := answers[question.id]).error]
    if not good:
        first = next(iter(answers.values())).error
        raise ValueError(f"no question has an answer; the first failure: {first}")
    outcomes = [task.score(question, answer.text) for question, answer in good]
    return Result(
        task=task.name,
        model=settings.model,
        accuracies=accuracies(outcomes, task.metrics),
        questions=len(questions),
        failed=len(questions) - len(good),
        truncated=sum(answer.finish_reason == "length" for _, answer in good),
        fewer_shots=sum(answer.shots < min(settings.shots, len(question.examples)) for question, answer in good),
    )


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Return (columns, rows): the row of everything first; accuracies and intervals in percent."""
    metrics = list(result.accuracies)
    groups = list(dict.fromkeys(group for metric in metrics for group in result.accuracies[metric]))
    rows = []
    for group in groups:
        found = [result.accuracies[metric].get(group) for metric in metrics]
        questions = max(one.questions for one in found if one is not None)
        rows.append([group or ALL, str(questions), *(_percent(one) for one in found)])
    return ["", "questions", *(f"{metric}, %" for metric in metrics)], rows


def _percent(one: Accuracy | None) -> str:
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" if one is not None else ""


def notes(result: Result) -> list[str]:
    """Return what a reader of the table must know."""
    lines = []
    if result.truncated:
        lines.append(f"{result.truncated} answers ended at max_tokens and may lack their result: raise --max-tokens")
    if result.fewer_shots:
        lines.append(f"{result.fewer_shots} prompts had fewer examples than asked for: the context is too short")
    if result.failed:
        lines.append(f"{result.failed} questions have no answer and are not counted; the same command asks them again")
    return lines


def as_json(result: Result, settings: Settings, *, url: str, data: str) -> dict[str, Any]:
    """Return what goes into results.json."""
    return {
        **msgspec.to_builtins(result),
        "accuracies": {
            metric: {group or ALL: msgspec.to_builtins(one) for group, one in groups.items()}
            for metric, groups in result.accuracies.items()
        },
        "interval": FORMULA,
        "endpoint": settings.endpoint,
        "shots": settings.shots,
        "fields": settings.fields,
        "url": url,
        "data": data,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
