from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.text.output.reasoning import ReasoningParser, reasoning_parser_for


def split(pieces: list[str], starts_inside: bool) -> tuple[str, str]:
    parser = ReasoningParser(starts_inside)
    parts = [*(parser.feed(piece) for piece in pieces), parser.finish()]
    return "".join(reasoning for reasoning, _ in parts), "".join(content for _, content in parts)


CASES = [
    (False, "", "", ""),
    (False, "An answer", "", "An answer"),
    (False, "  An answer ", "", "  An answer "),
    (False, "<think>\nhm, so\n</think>\n\nAn answer\n", "hm, so", "An answer\n"),
    (False, "\n<think> a\n\nb </think>c", "a\n\nb", "c"),
    (False, "<think>\n\n</think>\n\nc", "", "c"),
    (False, "<think>cut off </thi", "cut off </thi", ""),
    (False, "<think>", "", ""),
    (False, "<thin", "", "<thin"),
    (False, "<thing> a </think>", "", "<thing> a </think>"),
    (False, "<think>a</think>b <think>c</think>", "a", "b <think>c</think>"),
    (False, "<think>a < b </thinker></think> d", "a < b </thinker>", "d"),
    (True, "hm\n</think>\n\nAn answer", "hm", "An answer"),
    (True, "<think>\nhm\n</think>\n\nAn answer", "hm", "An answer"),
    (True, "still thinking\n", "still thinking", ""),
    (True, "", "", ""),
    (True, "<thi", "<thi", ""),
    (True, "</think>x", "", "x"),
    (True, "a</think>\n ", "a", ""),
]


@pytest.mark.parametrize(("inside", "text", "reasoning", "content"), CASES)
def test_the_result_does_not_depend_on_the_pieces(inside: bool, text: str, reasoning: str, content: str) -> None:
    assert split([text], inside) == (reasoning, content)
    assert split(list(text), inside) == (reasoning, content)
    for cut in range(1, len(text)):
        assert split([text[:cut], text[cut:]], inside) == (reasoning, content)


@given(
    parts=st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", " ", "\n", "a", "b"]), max_size=10),
    inside=st.booleans(),
)
def test_fuzz_the_result_does_not_depend_on_the_pieces(parts: list[str], inside: bool) -> None:
    text = "".join(parts)
    assert split(list(text), inside) == split([text], inside) == split(parts, inside)


def test_text_is_not_held_back() -> None:
    parser = ReasoningParser()
    assert parser.feed("<think>one two ") == ("one two", "")
    assert parser.feed("three</th") == (" three", "")
    assert parser.feed("ink>\n\nfour ") == ("", "four ")
    assert parser.feed("five") == ("", "five")


def test_choice_of_the_parser() -> None:
    template = "{{ '<think>' }}"
    assert reasoning_parser_for("none", template) is None
    assert reasoning_parser_for("auto", "plain") is None
    assert reasoning_parser_for("qwen3", "plain") is not None
    opened = reasoning_parser_for("auto", template, prompt="...<think>\n")
    assert opened is not None
    assert opened.feed("hm") == ("hm", "")
    closed = reasoning_parser_for("auto", template, prompt="...<think>\n\n</think>\n\n")
    assert closed is not None
    assert closed.feed("hm") == ("", "hm")
    with pytest.raises(ValueError, match="reasoning_parser must be"):
        reasoning_parser_for("r1", template)
