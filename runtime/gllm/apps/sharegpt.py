"""The JSON file of ShareGPT: [{"id": ..., "conversations": [{"from": "human", "value": ...}, ...]}, ...]."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

_FROM = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}


class Turn(msgspec.Struct):
    """One message. Files with `role` and `content` are read too."""

    source: str = msgspec.field(name="from", default="")
    value: str = ""
    role: str = ""
    content: str = ""

    @property
    def speaker(self) -> str:
        """`user`, `assistant` or, for anything else, ""."""
        return _FROM.get(self.source or self.role, "")

    @property
    def text(self) -> str:
        return self.value or self.content


class Conversation(msgspec.Struct):
    """One entry of the file."""

    id: Any = None
    conversations: list[Turn] = []
    messages: list[Turn] = []

    @property
    def turns(self) -> list[Turn]:
        """The turns from the first of the user on."""
        turns = self.conversations or self.messages
        first = next((index for index, turn in enumerate(turns) if turn.speaker == "user"), len(turns))
        return turns[first:]


def read_sharegpt(path: Path) -> list[Conversation]:
    """Return the conversations of a file. Raises ValueError, which names the file and the entry."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Conversation])
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(
            f'{path} is not a ShareGPT file, a JSON list of {{"conversations": [{{"from", "value"}}]}}: {error}'
        ) from None


def is_sharegpt(path: Path) -> bool:
    """Whether a file is a JSON list, and so not JSON lines."""
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def as_batch_lines(path: Path) -> Iterator[bytes]:
    """Yield the first question of each conversation as a line of `gllm generate`. Raises ValueError.

    An id that is missing or was used before gets the number of the conversation.
    """
    seen: set[str] = set()
    for number, conversation in enumerate(read_sharegpt(path), start=1):
        if not conversation.turns:
            continue
        name = str(conversation.id) if conversation.id is not None else f"conversation-{number}"
        name = name if name not in seen else f"{name}-{number}"
        seen.add(name)
        messages = [{"role": "user", "content": conversation.turns[0].text}]
        yield msgspec.json.encode({"custom_id": name, "messages": messages})


def first_exchanges(path: Path) -> Iterator[tuple[Any, str, str]]:
    """Yield (id, prompt, answer) of each conversation that begins with both."""
    for conversation in read_sharegpt(path):
        match conversation.turns:
            case [asked, answered, *_] if asked.text and answered.speaker == "assistant" and answered.text:
                yield conversation.id, asked.text, answered.text
