"""Options of a request about tokens: prompts cut to a length, and words that must not be generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gllm.sampling_params import ParameterError


class Truncation(msgspec.Struct, frozen=True):
    """The part of a prompt that is kept."""

    keep: int
    """Maximum number of prompt tokens."""
    side: str
    """left or right: the side that is cut."""

    def cut(self, token_ids: list[int], leading: list[int]) -> list[int]:
        """Return at most `keep` tokens.

        leading: the special tokens that the tokenizer puts before a text; they are kept.
        """
        if len(token_ids) <= self.keep:
            return token_ids
        fixed = len(leading) if token_ids[: len(leading)] == leading and len(leading) < self.keep else 0
        room = self.keep - fixed
        kept = token_ids[-room:] if self.side == "left" else token_ids[fixed : self.keep]
        return token_ids[:fixed] + kept


def truncation_for(keep: int | None, side: str, output: int | None, max_model_len: int) -> Truncation | None:
    """Return the truncation that `truncate_prompt_tokens` (keep) and `truncation_side` ask for; None: no truncation.

    output: maximum number of tokens of the answer; None if it may take the rest of the context. Raises ParameterError.
    """
    if keep is None:
        return None
    room = max_model_len - (1 if output is None else output)
    if room < 1 or keep == 0 or keep > room:
        raise ParameterError(
            "truncate_prompt_tokens",
            f"truncate_prompt_tokens must be -1, or from 1 to the {max(room, 0)} tokens that the context of "
            f"{max_model_len} has beside the answer",
        )
    return Truncation(room if keep < 0 else keep, side)


def bad_word_ids(encode: Callable[..., list[int]], words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of each word, as it is spelled at the beginning of a text and after a space.

    encode: `Tokenizer.encode`. Other tokens may make the same text: only the tokenizer's own spelling is prevented,
    as in vLLM. Raises ValueError for lone surrogates.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip()
        for text in (bare, " " + bare) if bare else (word,):
            ids = encode(text, add_special_tokens=False)
            if ids:
                found[tuple(ids)] = None
    return tuple(found)
