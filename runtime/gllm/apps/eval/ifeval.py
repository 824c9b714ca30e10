"""IFEval: instructions that a program can verify, such as a number of words. Metrics are those of its authors."""

from __future__ import annotations

from gllm.apps.eval.dataset import Dataset, Row
from gllm.apps.eval.instructions import INSTRUCTIONS, follows, needs_langdetect
from gllm.apps.eval.task import EndpointName, Outcome, Question, Task


def load(tests: list[Row], examples: list[Row]) -> list[Question]:
    """Return the questions. Raises ValueError for an instruction that is unknown or lacks an argument."""
    questions = []
    for row in tests:
        where = f"key {row['key']}"
        if len(row["instruction_id_list"]) != len(row["kwargs"]):
            raise ValueError(f"{where}: kwargs must have one entry for each of instruction_id_list")
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name not in INSTRUCTIONS:
                raise ValueError(f"{where}: the instruction {name!r} is not known")
            missing = [needed for needed in INSTRUCTIONS[name].arguments if arguments.get(needed) is None]
            if missing:
                raise ValueError(f"{where}: kwargs of {name} has no {missing[0]!r}")
        questions.append(Question(id=str(row["key"]), subject="", row=row))
    if any(needs_langdetect(name) for row in tests for name in row["instruction_id_list"]):
        _check_langdetect()
    return questions


def _check_langdetect() -> None:
    try:
        import langdetect  # noqa: F401
    except ImportError:
        raise ValueError("IFEval's checks of languages need langdetect: pip install 'gllm[eval]'") from None


def prompt(question: Question, shots: int, endpoint: EndpointName) -> str:
    text: str = question.row["prompt"]
    return text


def variants(answer: str) -> list[str]:
    """Return the answers that the loose metrics accept: without the first or last line, and without asterisks."""
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def score(question: Question, answer: str) -> list[Outcome]:
    """prompt_*: all instructions of a prompt are followed. instruction_*: each counts, by its kind.

    strict: the answer as it is. loose: any of `variants`.
    """
    row = question.row
    outcomes = []
    for level, texts in (("strict", [answer]), ("loose", variants(answer))):
        followed = [
            any(text.strip() and follows(name, text, arguments) for text in texts)
            for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True)
        ]
        outcomes.append(Outcome(f"prompt_{level}", "", all(followed)))
        for name, correct in zip(row["instruction_id_list"], followed, strict=True):
            outcomes.append(Outcome(f"instruction_{level}", name.partition(":")[0], correct))
    return outcomes


IFEVAL = Task(
    name="ifeval",
    dataset=Dataset(name="google/IFEval", files=("*.jsonl", "*.parquet", "data/*.parquet"), tests="train"),
    columns=("key", "prompt", "instruction_id_list", "kwargs"),
    metrics=("instruction_strict", "instruction_loose", "prompt_strict", "prompt_loose"),
    stop={},
    load=load,
    prompt=prompt,
    score=score,
)
