"""Words that must not be generated, as the runs of tokens that spell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Encoder(Protocol):
    """What is used of `gllm.text.tokenizer.Tokenizer`."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...


def bad_word_ids(tokenizer: Encoder, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Each word as it is spelled at the beginning of a text, and after a space. ValueError for lone surrogates.

    The same text may be made of other tokens: only the tokenizer's own spelling is prevented, as in vLLM.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip()
        for text in (bare, " " + bare) if bare else (word,):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if ids:
                found[tuple(ids)] = None
    return tuple(found)
