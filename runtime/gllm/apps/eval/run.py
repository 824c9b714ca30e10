"""Ask all questions of a benchmark, with many requests at once, and keep every answer as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gllm.apps.eval.answers import Answer, read_answers, request_digest, write_answer
from gllm.apps.eval.client import PATHS, EvalClient, PromptTooLong, RequestFailed
from gllm.apps.eval.task import EndpointName, Question, Task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the questions are asked."""

    model: str
    endpoint: EndpointName
    shots: int
    fields: dict[str, Any] = field(default_factory=dict)
    """Sampling fields of every request, and --extra-body."""
    concurrency: int = 32

    def body(self, task: Task, question: Question, shots: int) -> dict[str, Any]:
        return {"model": self.model, **task.body(question, shots, self.endpoint, self.fields)}


def choose(questions: Sequence[Question], subjects: Iterable[str], limit: int | None) -> list[Question]:
    """Return the questions of some subjects (none named: all), at most the first `limit` of each.

    Raises ValueError for a subject that does not exist.
    """
    wanted = set(subjects)
    known = {question.subject for question in questions}
    unknown = wanted - known
    if unknown:
        raise ValueError(f"--subjects: there is no {min(unknown)!r}; the data has: {', '.join(sorted(known))}")
    chosen: list[Question] = []
    counts: dict[str, int] = {}
    for question in questions:
        count = counts[question.subject] = counts.get(question.subject, 0) + 1
        if (not wanted or question.subject in wanted) and (limit is None or count <= limit):
            chosen.append(question)
    return chosen


class AnswerBook:
    """The answers of one run: those that the file already has, and the new ones."""

    def __init__(self, task: Task, questions: Sequence[Question], settings: Settings, path: Path) -> None:
        """Raises ValueError if the file is not one of answers."""
        self._task, self._settings, self._path = task, settings, path
        kept = read_answers(path)
        self.answers: dict[str, Answer] = {}
        """By the id of the question; a failure has its `error`."""
        self.open: list[tuple[Question, str]] = []
        """Questions without an answer, and the digest of their request."""
        for question in questions:
            digest = request_digest(settings.body(task, question, settings.shots))
            answer = kept.get((question.id, digest))
            if answer is None:
                self.open.append((question, digest))
            else:
                self.answers[question.id] = answer

    async def fill(self, client: EvalClient, on_done: Callable[[Answer], None]) -> None:
        """Ask the open questions; `on_done` is called as each answer or failure is written."""
        queue = iter(self.open)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._settings.concurrency, len(self.open))):
                    group.create_task(self._work(client, queue, file, on_done))

    async def _work(
        self,
        client: EvalClient,
        queue: Iterable[tuple[Question, str]],
        file: IO[bytes],
        on_done: Callable[[Answer], None],
    ) -> None:
        for question, digest in queue:
            answer = await self._ask(client, question, digest)
            self.answers[question.id] = answer
            write_answer(file, answer)
            on_done(answer)

    async def _ask(self, client: EvalClient, question: Question, digest: str) -> Answer:
        """Ask one question, with fewer worked examples if the context is too short, as MMLU-Pro's authors do."""
        settings = self._settings
        shots = min(settings.shots, len(question.examples))
        while True:
            try:
                body = await client.post(PATHS[settings.endpoint], settings.body(self._task, question, shots))
                return _read(body, question.id, digest, shots)
            except PromptTooLong as error:
                if shots == 0:
                    return Answer(id=question.id, request=digest, error=str(error))
                shots -= 1
            except RequestFailed as error:
                return Answer(id=question.id, request=digest, error=str(error))


def _read(body: dict[str, Any], id: str, digest: str, shots: int) -> Answer:
    """Return the answer of a response. Reasoning that the server sends apart is not part of the text."""
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Answer(
            id=id,
            request=digest,
            text=text or "",
            finish_reason=choice.get("finish_reason") or "",
            prompt_tokens=usage.get("prompt_tokens") or 0,
            completion_tokens=usage.get("completion_tokens") or 0,
            shots=shots,
        )
    except (LookupError, TypeError, AttributeError):
        raise RequestFailed(f"the server does not answer like OpenAI's: {str(body)[:300]}") from None
