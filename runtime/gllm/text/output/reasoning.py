"""Separates the reasoning of a model from its answer, while the text streams."""

from __future__ import annotations

import enum

OPEN_TAG, CLOSE_TAG = "<think>", "</think>"


def reasoning_parser_for(name: str, template_source: str, prompt: str = "") -> ReasoningParser | None:
    """Return a new parser for one generation; None if there is no reasoning to separate.

    name: "qwen3", "none", or "auto": a parser if the chat template contains <think>. If `prompt`, the rendered text,
    ends with <think>, the model starts inside the reasoning; if the template closes it again (enable_thinking=false),
    there is only an answer. Raises ValueError for other names.
    """
    if name not in ("auto", "qwen3", "none"):
        raise ValueError(f"reasoning_parser must be auto, qwen3 or none, not {name!r}")
    if name == "none" or (name == "auto" and OPEN_TAG not in template_source):
        return None
    return ReasoningParser(starts_inside=prompt.rstrip().endswith(OPEN_TAG))


class _State(enum.Enum):
    START = enum.auto()
    THINKING_BEGINS = enum.auto()
    THINKING = enum.auto()
    ANSWER_BEGINS = enum.auto()
    ANSWER = enum.auto()


class ReasoningParser:
    """Qwen3's form: an optional <think>...</think> at the start, then the answer.

    White space around the tags is dropped. Without a closing tag everything is reasoning; later tags are plain text.
    The result does not depend on how the text is divided into pieces.

    starts_inside: the prompt ends with the opening tag, which the model may repeat.
    """

    def __init__(self, starts_inside: bool = False) -> None:
        self._starts_inside = starts_inside
        self._state = _State.START
        self._held = ""
        """Text that may be part of a tag, or white space before one."""

    def feed(self, text: str) -> tuple[str, str]:
        """Return the (reasoning, content) that is certain after `text`."""
        self._held += text
        reasoning = ""
        if self._state is _State.START:
            self._leave_start()
        if self._state is _State.THINKING_BEGINS:
            self._skip_space(_State.THINKING)
        if self._state is _State.THINKING:
            reasoning = self._think()
        if self._state is _State.ANSWER_BEGINS:
            self._skip_space(_State.ANSWER)
        if self._state is not _State.ANSWER:
            return reasoning, ""
        content, self._held = self._held, ""
        return reasoning, content

    def finish(self) -> tuple[str, str]:
        """Return the held text as (reasoning, content), when no more text comes."""
        held, self._held = self._held, ""
        if self._state in (_State.THINKING_BEGINS, _State.THINKING) or (
            self._state is _State.START and self._starts_inside
        ):
            return held.rstrip(), ""
        return "", "" if self._state is _State.ANSWER_BEGINS else held

    def _leave_start(self) -> None:
        text = self._held.lstrip()
        if text.startswith(OPEN_TAG):
            self._held = text[len(OPEN_TAG) :]
            self._state = _State.THINKING_BEGINS
        elif not OPEN_TAG.startswith(text):
            self._state = _State.THINKING_BEGINS if self._starts_inside else _State.ANSWER

    def _skip_space(self, then: _State) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._state = then

    def _think(self) -> str:
        """Return the reasoning that is certain; white space at its end is held."""
        end = self._held.find(CLOSE_TAG)
        if end >= 0:
            reasoning, self._held = self._held[:end].rstrip(), self._held[end + len(CLOSE_TAG) :]
            self._state = _State.ANSWER_BEGINS
            return reasoning
        start = self._held.rfind("<")
        cut = start if start >= 0 and CLOSE_TAG.startswith(self._held[start:]) else len(self._held)
        reasoning = self._held[:cut].rstrip()
        self._held = self._held[len(reasoning) :]
        return reasoning
