"""Turns token ids into text while they arrive: only whole characters, and no text that may become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gllm.text.output.stop_strings import StopScanner, StopStrings

if TYPE_CHECKING:
    from gllm.text.output.stop_patterns import StopPatterns
    from gllm.text.tokenizer import Tokenizer

_UTF8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one generation.

    The pieces that `feed` and `finish` return add up to `tokenizer.decode` of all ids, cut at the first stop string, or
    after the first token with which a stop pattern matches. The first stop string is the one whose last character comes
    first (of several, the longest). The result does not depend on how the ids are divided into `feed` calls. The work
    for a token does not grow with the text.

    Args:
        min_tokens: stop strings and matches that end within the first `min_tokens` tokens do not count.
        keep_leading_space: the text continues a prompt, so the space that SentencePiece puts before a first word stays.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: StopStrings | None = None,
        patterns: StopPatterns | None = None,
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
        keep_leading_space: bool = False,
    ) -> None:
        self.stop_reason: str | None = None
        """The stop string or the pattern that matched; from then on `feed` returns nothing."""
        self.num_tokens = 0
        """The number of ids taken in, up to the id that completed a stop string or a match."""
        self._pieces = tokenizer.token_pieces
        self._hidden = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._strip_pending = tokenizer.strip_leading_space and not keep_leading_space
        self._decode = _UTF8(errors="replace").decode
        self._stops = StopScanner(stop or StopStrings(), include_stop) if stop or patterns else None
        self._patterns = patterns.scanner() if patterns else None
        self._min_tokens = min_tokens

    def feed(self, token_ids: Sequence[int]) -> str:
        """Return the text that these ids complete and that cannot become a stop string."""
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
                shown.append(self._scan(self._stops, text))
        return "".join(shown)

    def finish(self) -> str:
        """Return the held text when no more ids come; an incomplete character becomes U+FFFD."""
        if self.stop_reason is not None:
            return ""
        text = self._decode(b"", True)
        if self._stops is None:
            return text
        return self._scan(self._stops, text) + self._stops.take_held()

    def _scan(self, stops: StopScanner, text: str) -> str:
        """Return the text that cannot become a stop string; a token that completes a match is kept whole."""
        ignore = self.num_tokens <= self._min_tokens
        shown = stops.feed(text, ignore=ignore)
        self.stop_reason = stops.matched
        if self._patterns is not None and self.stop_reason is None:
            self.stop_reason = self._patterns.feed(text, ignore=ignore)
            if self.stop_reason is not None:
                shown += stops.take_held()
        return shown

    def _bytes_of(self, token: int) -> bytes:
        if token in self._hidden or not 0 <= token < len(self._pieces):
            return b""
        piece = self._pieces[token]
        if self._strip_pending and piece:
            self._strip_pending = False
            return piece.removeprefix(b" ")
        return piece
