"""Token ids to text while they arrive: whole UTF-8 only, and nothing that may become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer

_UTF8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """One generation's text. The pieces returned by `feed` and `finish` add up to `tokenizer.decode` of all ids,
    cut at the first stop string.

    The first stop string is the one whose last character comes first (of several, the longest); the result does
    not depend on how the ids were divided into `feed` calls. Work per token is constant: bytes of tokens go
    through an incremental decoder, stop strings through one Knuth-Morris-Pratt automaton each.

    keep_leading_space: the text continues a prompt, so the space by which SentencePiece marks a first word stays.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        keep_leading_space: bool = False,
    ) -> None:
        self.stop_reason: str | None = None
        """The stop string that matched; from then on `feed` returns nothing."""
        self.num_tokens = 0
        """Ids taken in, up to the one that completed a stop string."""
        self._pieces = tokenizer.token_pieces
        self._hidden = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._strip_pending = tokenizer.strip_leading_space and not keep_leading_space
        self._decode = _UTF8(errors="replace").decode
        self._stops = _StopScanner(stop, include_stop) if stop else None

    def feed(self, token_ids: Sequence[int]) -> str:
        """Text that these ids make safe to show."""
        if self._stops is None:
            self.num_tokens += len(token_ids)
            if len(token_ids) == 1:
                data = self._bytes_of(token_ids[0])
            else:
                data = b"".join([self._bytes_of(token) for token in token_ids])
            return self._decode(data) if data else ""
        shown = []
        for token in token_ids:
            if self.stop_reason is not None:
                break
            self.num_tokens += 1
            text = self._decode(self._bytes_of(token))
            if text:
                shown.append(self._stops.feed(text))
                self.stop_reason = self._stops.matched
        return "".join(shown)

    def finish(self) -> str:
        """What was held back, when no more ids come; half a character shows as U+FFFD."""
        if self.stop_reason is not None:
            return ""
        text = self._decode(b"", True)
        if self._stops is None:
            return text
        shown = self._stops.feed(text)
        self.stop_reason = self._stops.matched
        return shown + self._stops.take_held()

    def _bytes_of(self, token: int) -> bytes:
        if token in self._hidden or not 0 <= token < len(self._pieces):
            return b""
        piece = self._pieces[token]
        if self._strip_pending and piece:
            self._strip_pending = False
            return piece.removeprefix(b" ")
        return piece


class _StopScanner:
    """Finds the first of several stop strings in a text that comes in pieces."""

    def __init__(self, stop: Sequence[str], include_stop: bool) -> None:
        self.matched: str | None = None
        self._include = include_stop
        self._stops = [(text, _failure_function(text)) for text in stop]
        self._states = [0] * len(stop)
        """Length of each stop string's longest prefix that ends the text so far."""
        self._first = frozenset(text[0] for text in stop)
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that cannot be part of a stop string any more."""
        if not self._held and self._first.isdisjoint(text):
            return text
        for end, char in enumerate(text, start=1):
            longest = self._advance(char)
            if longest is not None:
                self.matched = longest
                found = self._take(text[:end])
                return found if self._include else found[: -len(longest)]
        text = self._take(text)
        safe = len(text) - max(self._states)
        self._held = text[safe:]
        return text[:safe]

    def take_held(self) -> str:
        return self._take("")

    def _take(self, text: str) -> str:
        text, self._held = self._held + text, ""
        return text

    def _advance(self, char: str) -> str | None:
        """Moves every automaton by one character; the longest stop string that it completes, if any."""
        longest: str | None = None
        for index, (stop, failure) in enumerate(self._stops):
            state = self._states[index]
            while state and stop[state] != char:
                state = failure[state - 1]
            if stop[state] == char:
                state += 1
                if state == len(stop) and (longest is None or len(stop) > len(longest)):
                    longest = stop
            self._states[index] = state % len(stop)
        return longest


def _failure_function(pattern: str) -> list[int]:
    """For each prefix of `pattern`, the length of its longest proper prefix that is also its suffix."""
    table = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = table[length - 1]
        if pattern[index] == pattern[length]:
            length += 1
        table[index] = length
    return table
