"""The conversation: history, commands, and the loop over input lines. It needs no engine and no HTTP."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from typing import Protocol, TextIO

Message = dict[str, str]

HELP = """\
/help           this text
/clear          forget the conversation (the system prompt stays)
/system TEXT    set the system prompt and forget the conversation; without TEXT, remove it
/exit           leave (also Ctrl-D)
Ctrl-C          stop the answer"""


class ContextFull(Exception):
    """The conversation no longer fits the model's context."""


class Backend(Protocol):
    """An engine or a server that answers: `OfflineBackend` or `OnlineBackend`."""

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        """Yield the answer to a conversation, piece by piece. Closing the iterator stops the generation.

        Raises ContextFull before the first piece if the conversation is too long, ChatError for other errors.
        """
        ...


class ChatError(Exception):
    """There is no answer; str(error) is for the user."""


class Session:
    """One conversation: a system prompt, if any, then turns of user and assistant."""

    def __init__(self, backend: Backend, *, system: str = "", out: TextIO | None = None) -> None:
        self._backend = backend
        self._out = out or sys.stdout
        self.system = system
        self.turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    def run(self, read_line: Callable[[], str]) -> None:
        """Answer lines until `read_line` raises EOFError or the user leaves; KeyboardInterrupt there drops the line."""
        while True:
            try:
                line = read_line().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("\n(Ctrl-D or /exit leaves)")
                continue
            if line.startswith("/"):
                if not self.command(line):
                    return
            elif line:
                self.ask(line)

    def command(self, line: str) -> bool:
        """Run a / command. Return False if it ends the session."""
        name, _, rest = line.partition(" ")
        match name:
            case "/help":
                self._say(HELP)
            case "/clear":
                self.turns.clear()
                self._say("(conversation cleared)")
            case "/system":
                self.system = rest.strip()
                self.turns.clear()
                self._say("(system prompt set)" if self.system else "(no system prompt)")
            case "/exit" | "/quit":
                return False
            case _:
                self._say(f"no command {name}; /help lists them")
        return True

    def ask(self, question: str) -> None:
        """Print the answer as it arrives and add both turns to the history; an interrupted answer is kept as it is."""
        self.turns.append({"role": "user", "content": question})
        answer: list[str] = []
        try:
            self._stream(answer)
        except KeyboardInterrupt:
            self._say("\n(stopped)", end="")
        except ChatError as error:
            self._say(f"error: {error}", end="")
            if not answer:
                # There is no answer: the user may ask again.
                self.turns.pop()
        self._say("")
        if answer:
            self.turns.append({"role": "assistant", "content": "".join(answer)})
        elif self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def _stream(self, answer: list[str]) -> None:
        while True:
            pieces = self._backend.answer(self.messages)
            try:
                with contextlib.closing(pieces):
                    for piece in pieces:
                        answer.append(piece)
                        self._out.write(piece)
                        self._out.flush()
                return
            except ContextFull:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Drop the oldest question with its answer; the system prompt and the current question stay."""
        if len(self.turns) < 3:
            raise ChatError("the message is longer than the model's context: send a shorter one") from None
        del self.turns[:2]

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._out, flush=True)
