"""Prompts that are too long, cut to what was asked for."""

from __future__ import annotations

import msgspec

from gllm.sampling_params import ParameterError


class Truncation(msgspec.Struct, frozen=True):
    """Which tokens stay of a prompt."""

    keep: int
    side: str
    """left or right: where it is cut."""

    def cut(self, token_ids: list[int], leading: list[int]) -> list[int]:
        """At most `keep` tokens. leading: the special tokens that the tokenizer puts before a text; they stay."""
        if len(token_ids) <= self.keep:
            return token_ids
        fixed = len(leading) if token_ids[: len(leading)] == leading and len(leading) < self.keep else 0
        room = self.keep - fixed
        kept = token_ids[-room:] if self.side == "left" else token_ids[fixed : self.keep]
        return token_ids[:fixed] + kept


def truncation_for(wanted: int | None, side: str, output: int | None, max_model_len: int) -> Truncation | None:
    """What `truncate_prompt_tokens` and `truncation_side` ask for; None: nothing is cut.

    output: most tokens of the answer, None if it takes what is left. Raises ParameterError.
    """
    if wanted is None:
        return None
    room = max_model_len - (1 if output is None else output)
    if room < 1 or wanted == 0 or wanted > room:
        raise ParameterError(
            "truncate_prompt_tokens",
            f"truncate_prompt_tokens must be -1, or from 1 to the {max(room, 0)} tokens that the context of "
            f"{max_model_len} has beside the answer",
        )
    return Truncation(room if wanted < 0 else wanted, side)
