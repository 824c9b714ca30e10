"""What a benchmark is made of. `mmlu_pro`, `gsm8k` and `ifeval` each define one `Task`; `run` runs any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gllm.apps.eval.dataset import Dataset, Row

EndpointName = Literal["chat", "completions"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark, and the worked examples that its prompt may show."""

    id: str
    subject: str
    """"" if the benchmark has no subjects."""
    row: Row
    examples: tuple[Row, ...] = ()


class Outcome(NamedTuple):
    """One judgement about one answer. An answer may have several of one metric, such as one for each instruction."""

    metric: str
    group: str
    """The row of the table in which it counts, besides the row for everything; "": only there."""
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark: which rows it reads, what it asks, and how it judges an answer."""

    name: str
    dataset: Dataset
    columns: tuple[str, ...]
    """Columns that each row must have."""
    metrics: tuple[str, ...]
    """Names of its metrics; the plot shows the first."""
    stop: dict[EndpointName, tuple[str, ...]]
    """Strings that end an answer."""
    load: Callable[[list[Row], list[Row]], list[Question]]
    """(rows of the test split, rows of the examples' split) to questions. Raises ValueError that names the row."""
    prompt: Callable[[Question, int, EndpointName], str]
    """(question, shots, endpoint) to the text of the prompt."""
    score: Callable[[Question, str], list[Outcome]]

    def body(self, question: Question, shots: int, endpoint: EndpointName, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the body of the request. `fields` are sampling fields; the task's stop strings are added."""
        prompt = self.prompt(question, shots, endpoint)
        text = {"messages": [{"role": "user", "content": prompt}]} if endpoint == "chat" else {"prompt": prompt}
        stop = self.stop.get(endpoint, ())
        return {**text, **({"stop": list(stop)} if stop else {}), **fields}
