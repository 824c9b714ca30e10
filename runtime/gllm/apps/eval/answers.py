"""The file of answers: JSON lines, one for each answer, so that a run that was killed continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import IO, Any

import msgspec


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the file."""

    id: str
    """Of the question."""
    request: str
    """`request_digest` of the request with all worked examples."""
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    shots: int = 0
    """Worked examples in the prompt: fewer than asked for if the context is too short for more."""
    error: str = ""
    """Why there is no answer."""


def request_digest(body: dict[str, Any]) -> str:
    """Return a digest of a request's body: an answer is used again only for the same model, prompt and settings."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def read_answers(path: Path) -> dict[tuple[str, str], Answer]:
    """Return the answers of a file by (id, request), without failures.

    A last line that a crash cut off is removed from the file. Raises ValueError for a file of another kind.
    """
    if not path.exists():
        return {}
    answers: dict[tuple[str, str], Answer] = {}
    decoder = msgspec.json.Decoder(Answer)
    complete = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            complete += len(line)
            try:
                answer = decoder.decode(line)
            except msgspec.DecodeError:
                raise ValueError(f"{path}:{number} is not an answer of `gllm eval`: take another --output") from None
            if not answer.error:
                answers[answer.id, answer.request] = answer
    with path.open("r+b") as file:
        file.truncate(complete)
    return answers


def write_answer(file: IO[bytes], answer: Answer) -> None:
    """Write one line and flush it: a crash loses no line that was written."""
    file.write(msgspec.json.encode(answer) + b"\n")
    file.flush()
