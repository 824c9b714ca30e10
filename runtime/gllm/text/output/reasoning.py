"""Splits what a reasoning model thinks from what it answers, while the text streams."""

from __future__ import annotations

import enum

OPEN_TAG, CLOSE_TAG = "<think>", "</think>"


def reasoning_parser_for(name: str, template_source: str, prompt: str = "") -> ReasoningParser | None:
    """A fresh parser for one generation; None if nothing is to be split.

    name: "qwen3", "none", or "auto", which asks whether the chat template knows <think>. Templates that open the
    thinking themselves are recognised by the end of `prompt`, the rendered text; one that closes it again there
    (enable_thinking=false) leaves only an answer. Raises ValueError for other names.
    """
    if name not in ("auto", "qwen3", "none"):
        raise ValueError(f"reasoning_parser must be auto, qwen3 or none, not {name!r}")
    if name == "none" or (name == "auto" and OPEN_TAG not in template_source):
        return None
    return ReasoningParser(starts_inside=prompt.rstrip().endswith(OPEN_TAG))


class _At(enum.Enum):
    START = enum.auto()
    THINKING_BEGINS = enum.auto()
    THINKING = enum.auto()
    ANSWER_BEGINS = enum.auto()
    ANSWER = enum.auto()


class ReasoningParser:
    """Qwen3's form: an optional <think>...</think> at the start, then the answer.

    White space around the tags belongs to them and is dropped. Without a closing tag everything is reasoning; tags
    later in the answer are plain text. The result does not depend on how the text was cut.

    starts_inside: the prompt ended with the opening tag (the model may still repeat it).
    """

    def __init__(self, starts_inside: bool = False) -> None:
        self._starts_inside = starts_inside
        self._at = _At.START
        self._held = ""
        """Text that may be part of a tag, or white space before one."""

    def feed(self, text: str) -> tuple[str, str]:
        """(reasoning, content) that `text` makes certain."""
        self._held += text
        reasoning = ""
        if self._at is _At.START:
            self._leave_start()
        if self._at is _At.THINKING_BEGINS:
            self._skip_space(_At.THINKING)
        if self._at is _At.THINKING:
            reasoning = self._think()
        if self._at is _At.ANSWER_BEGINS:
            self._skip_space(_At.ANSWER)
        if self._at is not _At.ANSWER:
            return reasoning, ""
        content, self._held = self._held, ""
        return reasoning, content

    def finish(self) -> tuple[str, str]:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        if self._at in (_At.THINKING_BEGINS, _At.THINKING) or (self._at is _At.START and self._starts_inside):
            return held.rstrip(), ""
        return "", "" if self._at is _At.ANSWER_BEGINS else held

    def _leave_start(self) -> None:
        text = self._held.lstrip()
        if text.startswith(OPEN_TAG):
            self._held = text[len(OPEN_TAG) :]
            self._at = _At.THINKING_BEGINS
        elif not OPEN_TAG.startswith(text):
            self._at = _At.THINKING_BEGINS if self._starts_inside else _At.ANSWER

    def _skip_space(self, then: _At) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._at = then

    def _think(self) -> str:
        """The reasoning that is certain; white space at its end waits for what follows."""
        end = self._held.find(CLOSE_TAG)
        if end >= 0:
            reasoning, self._held = self._held[:end].rstrip(), self._held[end + len(CLOSE_TAG) :]
            self._at = _At.ANSWER_BEGINS
            return reasoning
        start = self._held.rfind("<")
        cut = start if start >= 0 and CLOSE_TAG.startswith(self._held[start:]) else len(self._held)
        reasoning = self._held[:cut].rstrip()
        self._held = self._held[len(reasoning) :]
        return reasoning
