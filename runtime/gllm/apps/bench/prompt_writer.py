"""Prompts of given lengths: random token ids, or random English words. Pure: a seed gives the same prompts anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gllm.apps.bench.words import WORDS

Writer = Callable[[int], list[int] | str]
"""Makes a prompt of so many tokens; each call draws another one."""
Counter = Callable[[str], int]
"""The number of tokens of a text."""

MIN_LENGTH = 4
"""Shortest prompt and shortest output, in tokens."""
DEFAULT_TOKEN_RANGE = (1000, 32000)
"""Range of random token ids: lower ids are special tokens in many vocabularies."""
CHARACTERS_A_TOKEN = 4
"""Of English text in the vocabularies of today's models, about."""


def clip(prompt_len: int, output_len: int, max_model_len: int | None) -> tuple[int, int]:
    """Return lengths that fit: outputs are cut to half of `max_model_len`, and prompts to the rest."""
    if max_model_len is None:
        return prompt_len, output_len
    if max_model_len < 2 * MIN_LENGTH:
        raise ValueError(f"max_model_len must be at least {2 * MIN_LENGTH} for a benchmark, not {max_model_len}")
    output_len = min(output_len, max_model_len // 2)
    return min(prompt_len, max_model_len - output_len), output_len


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, without a tokenizer."""
    return max(round(len(text) / CHARACTERS_A_TOKEN), 1)


def token_writer(seed: int, token_range: Sequence[int] = DEFAULT_TOKEN_RANGE) -> Writer:
    """Return a writer of random token ids in [low, high). Raises ValueError."""
    low, high = token_range
    if not 0 <= low < high:
        raise ValueError(f"token range must be low < high with low >= 0, not {low}..{high}")
    rng = random.Random(f"{seed}/tokens")
    return lambda count: [rng.randrange(low, high) for _ in range(count)]


def word_writer(seed: int, count_tokens: Counter | None = None) -> Writer:
    """Return a writer of random words. Without `count_tokens` each word counts as one token."""
    rng = random.Random(f"{seed}/tokens")

    def write(count: int) -> str:
        words = [rng.choice(WORDS) for _ in range(count)]
        if count_tokens is None:
            return " ".join(words)
        size = count
        for _ in range(8):
            wrong = count - count_tokens(" ".join(words[:size]))
            if not wrong or size + wrong < 1:
                break
            size += wrong
            words += [rng.choice(WORDS) for _ in range(size - len(words))]
        return " ".join(words[:size])

    return write


def joined(*parts: list[int] | str) -> list[int] | str:
    """Return one prompt of several, all token ids or all text; empty parts are left out."""
    if any(isinstance(part, str) for part in parts):
        return " ".join(part for part in parts if isinstance(part, str) and part)
    return [token for part in parts if not isinstance(part, str) for token in part]


def token_range_for(vocab_size: int | None) -> tuple[int, int]:
    """Return the default range of ids, clipped to a vocabulary; all ids of a tiny vocabulary."""
    low, high = DEFAULT_TOKEN_RANGE
    if vocab_size is None or vocab_size >= high:
        return low, high
    return (low, vocab_size) if vocab_size > 2 * low else (0, vocab_size)
