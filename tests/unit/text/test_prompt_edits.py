"""Truncated prompts, and words that must not be generated."""

from __future__ import annotations

import pytest

from gllm.sampling_params import ParameterError
from gllm.text.request_tokens import Truncation, bad_word_ids, truncation_for
from gllm.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("keep", "side", "leading", "kept"),
    [
        (3, "left", [], [5, 6, 7]),
        (3, "right", [], [1, 2, 3]),
        (3, "left", [1], [1, 6, 7]),
        (3, "right", [1], [1, 2, 3]),
        (3, "left", [9], [5, 6, 7]),
        (1, "left", [1], [7]),
        (7, "left", [1], [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_cut(keep: int, side: str, leading: list[int], kept: list[int]) -> None:
    assert Truncation(keep, side).cut([1, 2, 3, 4, 5, 6, 7], leading) == kept


def test_truncation_leaves_room_for_the_answer() -> None:
    assert truncation_for(None, "left", 10, 100) is None
    assert truncation_for(-1, "left", 10, 100) == Truncation(90, "left")
    assert truncation_for(-1, "right", None, 100) == Truncation(99, "right")
    assert truncation_for(90, "left", 10, 100) == Truncation(90, "left")
    for keep, output in ((91, 10), (0, 10), (-1, 100), (100, None)):
        with pytest.raises(ParameterError, match="truncate_prompt_tokens"):
            truncation_for(keep, "left", output, 100)


def test_bad_words(smollm: Tokenizer) -> None:
    runs = bad_word_ids(smollm.encode, ["hello", " unbelievably", "\n"])
    assert set(runs) == {
        tuple(smollm.encode(text)) for text in ("hello", " hello", "unbelievably", " unbelievably", "\n")
    }
    with pytest.raises(ValueError, match="surrogate"):
        bad_word_ids(smollm.encode, ["\ud800"])
