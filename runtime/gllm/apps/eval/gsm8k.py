"""GSM8K: grade school mathematics; prompt and extraction are those of lm-eval's task `gsm8k`."""

from __future__ import annotations

import re

from gllm.apps.eval.dataset import Dataset, Row
from gllm.apps.eval.task import EndpointName, Outcome, Question, Task

_MARK = "#### "
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def load(tests: list[Row], examples: list[Row]) -> list[Question]:
    for number, row in enumerate(tests, start=1):
        if _MARK not in row["answer"]:
            raise ValueError(f"row {number}: answer must end with a line like `{_MARK}42`")
    return [Question(id=str(number), subject="", row=row, examples=tuple(examples)) for number, row in enumerate(tests)]


def prompt(question: Question, shots: int, endpoint: EndpointName) -> str:
    shown = [f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in question.examples[:shots]]
    return "".join(shown) + f"Question: {question.row['question']}\nAnswer:"


def _plain(number: str) -> str:
    """Return a number without what may differ: commas, dollar signs and a final period."""
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", number))


def score(question: Question, answer: str) -> list[Outcome]:
    """flexible: the last number of the answer counts. strict: the number after the first `####`."""
    right = _plain(question.row["answer"].rpartition(_MARK)[2].strip())
    numbers, marked = _NUMBER.findall(answer), _STRICT.search(answer)
    return [
        Outcome("flexible", "", bool(numbers) and _plain(numbers[-1]) == right),
        Outcome("strict", "", marked is not None and _plain(marked[1]) == right),
    ]


GSM8K = Task(
    name="gsm8k",
    dataset=Dataset(name="openai/gsm8k", files=("main/*.parquet",), tests="test", examples="train", folder="main"),
    columns=("question", "answer"),
    metrics=("flexible", "strict"),
    stop={"chat": ("Question:",), "completions": ("Question:",)},
    load=load,
    prompt=prompt,
    score=score,
)
