"""Each instruction of IFEval: one answer that follows it and one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from gllm.apps.eval.instructions import INSTRUCTIONS, count_sentences, follows

CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "keywords:existence": ({"keywords": ["sea", "Wind"]}, ["The SEA and the wind"], ["The sea"]),
    "keywords:frequency": (
        {"keyword": "sea", "frequency": 2, "relation": "at least"},
        ["sea, Sea"],
        ["sea"],
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["sea"]}, ["seaside"], ["the Sea."]),
    "keywords:letter_frequency": (
        {"letter": "e", "let_frequency": 3, "let_relation": "less than"},
        ["Eve"],
        ["eleven"],
    ),
    "language:response_language": (
        {"language": "de"},
        ["Das ist ein deutscher Satz, und hier kommt noch einer.", "1 2 3"],  # what no one can tell counts
        ["This is an English sentence, and there is another one."],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two!", "Dr. No came. He left?"],
        ["Dr. No came at 3.15 p.m. today", ""],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none\n***\ntwo\n***"],
        ["one", "one\n***\n***\ntwo"],
    ),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, ["two words"], ["three more words"]),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First this.\n\n'Then, that."],
        ["Then this.\n\nNow that.", "One.\n\nThen.\n\nThree.", "Then", "One\n\n\n\nThen"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[name], [city]"], ["[name]"]),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, ["x\nP. P. S. bye"], ["x\nP.S. bye"]),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, ["* one\n- two"], ["* one", "**bold**\n* one"]),
    "detectable_format:constrained_response": ({}, ["My answer is maybe."], ["Maybe."]),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, ["*a* **b**"], ["**b**", "** ** *a*"]),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1\na", "Section A, Section B"],
    ),
    "detectable_format:json_format": ({}, ['```json\n{"a": 1}\n```', "[1]"], ['Here: {"a": 1}']),
    "detectable_format:title": ({}, ["<<Sea>>\nblue"], ["<< >>", "<Sea>"]),
    "combination:two_responses": ({}, ["a\n******\nb"], ["a", "a******a", "a******b******c"]),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Why? "}, [" why? Because."], ["Because."]),
    "startend:end_checker": ({"end_phrase": "The end."}, ['"So. THE END."'], ["The end. Or not."]),
    "startend:quotation": ({}, [' "quoted" '], ['"', '"half']),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["THE WELL-KNOWN sea"],
        ["WELL-KNOWN sea"],
    ),
    "change_case:english_capital": ({}, ["THE SEA IS BLUE AND THE WIND IS STRONG"], ["The sea is blue today"]),
    "change_case:english_lowercase": ({}, ["the sea is blue and the wind is strong"], ["The sea is blue today"]),
    "punctuation:no_comma": ({}, ["one and two"], ["one, two"]),
}


def test_there_is_a_case_for_each_instruction() -> None:
    assert set(CASES) == set(INSTRUCTIONS)
    assert all(set(INSTRUCTIONS[name].arguments) == set(arguments) for name, (arguments, _, _) in CASES.items())


@pytest.mark.parametrize("name", CASES)
def test_an_instruction_tells_answers_apart(name: str) -> None:
    arguments, good, bad = CASES[name]
    assert [follows(name, answer, arguments) for answer in good] == [True] * len(good)
    assert [follows(name, answer, arguments) for answer in bad] == [False] * len(bad)


def test_an_unknown_relation_is_refused() -> None:
    with pytest.raises(ValueError, match="the relation 'about' of an IFEval instruction is not known"):
        follows("length_constraints:number_words", "a", {"num_words": 1, "relation": "about"})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Mr. Smith met J. R. Oak, e.g. in No. 5.", 1),
        ("It cost 3.50. Cheap.", 2),
        ('He said "Go." Then he went.', 2),
        ("Wait... what?", 2),
        ("", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert count_sentences(text) == count
