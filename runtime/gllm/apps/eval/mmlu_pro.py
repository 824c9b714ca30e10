"""MMLU-Pro: multiple choice with up to ten options in 14 subjects, 5-shot chain of thought.

Prompts and the extraction of the answer are those of the authors' scripts (github.com/TIGER-AI-Lab/MMLU-Pro):
`evaluate_from_api.py` for chat, `evaluate_from_local.py` for text completions.
"""

from __future__ import annotations

import random
import re

from gllm.apps.eval.dataset import Dataset, Row
from gllm.apps.eval.task import EndpointName, Outcome, Question, Task

LETTERS = "ABCDEFGHIJ"
DATASET = Dataset(name="TIGER-Lab/MMLU-Pro", files=("data/*.parquet", "*.parquet"), tests="test", examples="validation")
_STEPS = "Let's think step by step."
_CHAT_INTRODUCTION = (
    "The following are multiple choice questions (with answers) about {subject}. Think step by step and then output "
    'the answer in the format of "The answer is (X)" at the end.\n\n'
)
_TEXT_INTRODUCTION = (
    "The following are multiple choice questions (with answers) about {subject}. Think step by step and then finish "
    'your answer with "the answer is (X)" where X is the correct letter choice.\n\n\n\n'
)
_PATTERNS = (
    re.compile(r"answer is \(?([A-J])\)?"),
    re.compile(r".*[aA]nswer:\s*([A-J])"),
    re.compile(r"\b([A-J])\b(?!.*\b[A-J]\b)", re.DOTALL),
)
"""Tried in this order: the sentence that the prompt asks for, "Answer: X", the last letter that stands alone."""


def load(tests: list[Row], examples: list[Row]) -> list[Question]:
    """Return the questions; their examples are the rows of the same subject, in the order of the file."""
    by_subject: dict[str, list[Row]] = {}
    for row in examples:
        by_subject.setdefault(row["category"], []).append(row)
    questions = []
    for row in tests:
        if row["answer"] not in tuple(LETTERS) or not 0 < len(_options(row)) <= len(LETTERS):
            raise ValueError(f"question_id {row['question_id']}: answer must be a letter of at most ten options")
        shown = tuple(by_subject.get(row["category"], ()))
        questions.append(Question(id=str(row["question_id"]), subject=row["category"], row=row, examples=shown))
    return questions


def prompt(question: Question, shots: int, endpoint: EndpointName) -> str:
    """Return the authors' prompt: an introduction, worked examples, and the question without its answer."""
    introduction = _CHAT_INTRODUCTION if endpoint == "chat" else _TEXT_INTRODUCTION
    render = _chat_question if endpoint == "chat" else _text_question
    examples = "".join(render(row) + _worked(row, endpoint) + "\n\n" for row in question.examples[:shots])
    last = f"Answer: {_STEPS}" + ("\n\n" if endpoint == "chat" else "")
    return introduction.format(subject=question.subject) + examples + render(question.row) + last


def _options(row: Row) -> list[str]:
    """Return the options; shorter lists were once filled with N/A."""
    return [option for option in row["options"] if option != "N/A"]


def _lettered(row: Row) -> str:
    return "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, _options(row), strict=False))


def _chat_question(row: Row) -> str:
    return f"Question: {row['question']}\nOptions: {_lettered(row)}"


def _text_question(row: Row) -> str:
    return f"Question:\n{row['question']}\nOptions:\n{_lettered(row)}"


def _worked(row: Row, endpoint: EndpointName) -> str:
    """Return the worked answer of an example; in the data it begins with "A: "."""
    worked: str = row["cot_content"]
    if endpoint == "chat":
        return "Answer: " + (worked.removeprefix("A: ") or _STEPS)
    return worked.replace(f"A: {_STEPS}", f"Answer: {_STEPS}")


def extract(answer: str) -> str | None:
    """Return the letter that an answer chooses; None if it names none."""
    text = answer.replace("**", "")
    for pattern in _PATTERNS:
        match = pattern.search(text)
        if match:
            return match[1]
    return None


def score(question: Question, answer: str) -> list[Outcome]:
    """accuracy: as the authors count, where an answer without a letter is a random guess, here with a fixed seed.
    strict: only "answer is (X)" counts, and no answer is wrong (lm-eval's `custom-extract`)."""
    right = question.row["answer"]
    guess = random.Random(question.id).choice(LETTERS[: len(_options(question.row))])
    strict = _PATTERNS[0].search(answer)
    return [
        Outcome("accuracy", question.subject, (extract(answer) or guess) == right),
        Outcome("strict", question.subject, strict is not None and strict[1] == right),
    ]


MMLU_PRO = Task(
    name="mmlu-pro",
    dataset=DATASET,
    columns=("question_id", "question", "options", "answer", "cot_content", "category"),
    metrics=("accuracy", "strict"),
    stop={"completions": ("Question:",)},
    load=load,
    prompt=prompt,
    score=score,
)
