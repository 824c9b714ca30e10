"""Stop patterns compared with Python's `re`, and their limits."""

from __future__ import annotations

import contextlib
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.sampling_params import ParameterError
from gllm.text.output.detokenizer import TextStream
from gllm.text.output.stop_patterns import PatternTooComplexError, StopPatterns
from gllm.text.output.stop_strings import StopStrings
from gllm.text.tokenizer import Tokenizer

PATTERNS = [
    r"\d+",
    r"b+a",
    r"(a|bb)c?b",
    r"(?:ab|c)",
    r"[^a-z\s]",
    r"(?i)AB",
    r"é.",
    r"a\nb",
    r"a.?b$",
    r"(aa)?bb",
    "b{2,3}",
]


@settings(max_examples=300)
@given(
    text=st.text(alphabet="abc1\n é\U0001f600", max_size=40),
    pattern=st.sampled_from(PATTERNS),
    least=st.integers(0, 10),
)
def test_stops_with_the_first_token_that_re_search_matches_at(
    smollm: Tokenizer, text: str, pattern: str, least: int
) -> None:
    ids = [token for char in text for token in smollm.encode(char)]
    texts = TextStream(smollm, patterns=StopPatterns([pattern]), min_tokens=least)
    shown = texts.feed(ids)
    before = ""
    for count in range(1, len(ids) + 1):
        so_far = smollm.decode(ids[:count]).rstrip("\ufffd")
        # A match counts if it ends in this token's text.
        new = so_far[len(before) :]
        ends = any(
            re.search(pattern.replace("$", "") + "\\Z", so_far[: len(before) + end]) for end in range(1, len(new) + 1)
        )
        if ends and count > least:
            assert (shown, texts.stop_reason, texts.num_tokens) == (so_far, pattern, count)
            return
        before = so_far
    assert (shown + texts.finish(), texts.stop_reason) == (text, None)


def test_the_token_that_completes_a_match_is_shown_whole(smollm: Tokenizer) -> None:
    ids = smollm.encode("In the year nineteen")
    texts = TextStream(smollm, patterns=StopPatterns(["ye"]), stop=StopStrings(["yearly"]))
    assert texts.feed(ids) == "In the year"
    assert texts.stop_reason == "ye"


def test_a_stop_string_takes_precedence_over_a_pattern(smollm: Tokenizer) -> None:
    texts = TextStream(smollm, patterns=StopPatterns(["x", "b"]), stop=StopStrings(["b"]))
    assert texts.feed(smollm.encode("ab")) == "a"
    assert texts.stop_reason == "b"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "unclosed group"),
        ("a)(b", "unopened group"),
        ("[", "unclosed character class"),
        (r"(a)\1", "backreferences are not supported"),
        ("(?=a)b", "look-around"),
        (r"\bfoo", "assertions are not supported"),
        ("^a", "assertions are not supported"),
        ("x{2,1}", "repetition"),
        ("(" * 1000 + ")" * 1000, "complex|nest"),
    ],
)
def test_invalid_patterns_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason) as caught:
        StopPatterns(["a", pattern])
    assert caught.value.param == "stop_regex"
    assert "stop_regex[1]" in str(caught.value)


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(a|aa)+c", r"(a?){200}a{200}c", r"(.*a){100}c", r"\w{2000}\d"])
def test_patterns_that_backtrack_exponentially_in_other_engines(pattern: str) -> None:
    scanner = StopPatterns([pattern]).scanner()
    started = time.monotonic()
    with contextlib.suppress(PatternTooComplexError):
        assert scanner.feed("a" * 3000) is None
    assert time.monotonic() - started < 5


def test_a_pattern_with_too_many_states_ends_in_an_error() -> None:
    scanner = StopPatterns(["a.{500}b"]).scanner()
    text = "".join(random.Random(0).choices("ac", k=4000))
    with pytest.raises(PatternTooComplexError, match="too many states"):
        scanner.feed(text)
