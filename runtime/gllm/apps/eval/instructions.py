"""The 25 instructions of IFEval as checks of ours, with the semantics of the authors' program.

Two differ: sentences are split by rules instead of nltk's punkt model, and words in capitals by a regular expression
instead of nltk's tokenizer. The reference is google-research/instruction_following_eval, as lm-eval has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

_LONE_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_NO_END = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Ltd|Co|vs|etc|e\.g|i\.e|No|Fig|approx|Ph\.D|[A-Z])\.$", re.IGNORECASE
)
"""The end of a part that is no sentence: an abbreviation or an initial."""


@dataclass(frozen=True)
class Instruction:
    """How an instruction is checked, and which arguments of the data set the check reads."""

    check: Check
    arguments: tuple[str, ...] = ()


def follows(name: str, answer: str, arguments: Arguments) -> bool:
    """Whether an answer follows an instruction of `INSTRUCTIONS`."""
    return INSTRUCTIONS[name].check(answer, arguments)


def needs_langdetect(name: str) -> bool:
    return name in _BY_LANGUAGE


def count_sentences(text: str) -> int:
    """Count the sentences: parts that end with . ! or ? before white space, where that is no abbreviation."""
    count, sentence = 0, ""
    for part in re.split(r"(?<=[.!?])[\"')\]]*\s+", text.strip()):
        sentence = f"{sentence} {part}"
        if not _NO_END.search(part):
            count, sentence = count + 1, ""
    return count + bool(sentence.strip()) if text.strip() else 0


def _compares(count: int, relation: str, bound: float) -> bool:
    """relation is "less than" or "at least". Raises ValueError for another one."""
    if relation not in ("less than", "at least"):
        raise ValueError(f"the relation {relation!r} of an IFEval instruction is not known")
    return count < bound if relation == "less than" else count >= bound


def _counted(count: Callable[[str, Arguments], int], bound: str, relation: str = "relation") -> Check:
    return lambda answer, given: _compares(count(answer, given), given[relation], given[bound])


def _is_language(answer: str, language: str) -> bool:
    """As the authors: an answer whose language cannot be detected counts as followed."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0
    try:
        return bool(detect(answer) == language)
    except LangDetectException:
        return True


def _keywords(answer: str, given: Arguments) -> bool:
    return all(re.search(keyword, answer, re.IGNORECASE) for keyword in given["keywords"])


def _keyword_count(answer: str, given: Arguments) -> int:
    return len(re.findall(given["keyword"].strip(), answer, re.IGNORECASE))


def _forbidden(answer: str, given: Arguments) -> bool:
    return not any(re.search(rf"\b{word}\b", answer, re.IGNORECASE) for word in given["forbidden_words"])


def _capital_words(answer: str, given: Arguments) -> int:
    return sum(word.isupper() for word in re.findall(r"\w+(?:[-./&]\w+)*", answer))


def _paragraphs(answer: str, given: Arguments) -> bool:
    """Paragraphs are divided by ***; none but the first and last part may be empty, and these do not count then."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    count = sum(map(bool, parts))
    return all(parts[1:-1]) and count == int(given["num_paragraphs"])


def _first_word(answer: str, given: Arguments) -> bool:
    parts = answer.split("\n\n")
    count, number = sum(bool(part.strip()) for part in parts), int(given["nth_paragraph"])
    if number > count or not parts[number - 1].strip():
        return False
    word = parts[number - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    return count == int(given["num_paragraphs"]) and first == given["first_word"].lower()


def _placeholders(answer: str, given: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= int(given["num_placeholders"])


def _postscript(answer: str, given: Arguments) -> bool:
    marker = given["postscript_marker"].strip()
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = patterns.get(marker, rf"\s*{marker.lower()}.*$")
    return re.search(pattern, answer.lower(), re.MULTILINE) is not None


def _bullets(answer: str, given: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", answer, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", answer, re.MULTILINE)) == int(given["num_bullets"])


def _highlights(answer: str, given: Arguments) -> bool:
    single, double = re.findall(r"\*([^\n*]*)\*", answer), re.findall(r"\*\*([^\n*]*)\*\*", answer)
    return sum(bool(text.strip()) for text in single + double) >= int(given["num_highlights"])


def _sections(answer: str, given: Arguments) -> bool:
    return len(re.findall(rf"\s?{given['section_spliter'].strip()}\s?\d+\s?", answer)) >= int(given["num_sections"])


def _json(answer: str, given: Arguments) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?", "", answer.strip()).removesuffix("```").strip()
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _two_responses(answer: str, given: Arguments) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    full = [part for part in parts if part]
    return all(parts[1:-1]) and len(full) == 2 and full[0] != full[1]


def _begins_with_prompt(answer: str, given: Arguments) -> bool:
    return answer.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _ends(answer: str, given: Arguments) -> bool:
    return answer.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _title(answer: str, given: Arguments) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", answer))


def _quoted(answer: str, given: Arguments) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


INSTRUCTIONS: dict[str, Instruction] = {
    "keywords:existence": Instruction(_keywords, ("keywords",)),
    "keywords:frequency": Instruction(_counted(_keyword_count, "frequency"), ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": Instruction(_forbidden, ("forbidden_words",)),
    "keywords:letter_frequency": Instruction(
        _counted(lambda answer, given: answer.lower().count(given["letter"].lower()), "let_frequency", "let_relation"),
        ("letter", "let_frequency", "let_relation"),
    ),
    "language:response_language": Instruction(
        lambda answer, given: _is_language(answer, given["language"]), ("language",)
    ),
    "length_constraints:number_sentences": Instruction(
        _counted(lambda answer, given: count_sentences(answer), "num_sentences"), ("num_sentences", "relation")
    ),
    "length_constraints:number_paragraphs": Instruction(_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": Instruction(
        _counted(lambda answer, given: len(re.findall(r"\w+", answer)), "num_words"), ("num_words", "relation")
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        _first_word, ("num_paragraphs", "nth_paragraph", "first_word")
    ),
    "detectable_content:number_placeholders": Instruction(_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": Instruction(_postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": Instruction(_bullets, ("num_bullets",)),
    "detectable_format:constrained_response": Instruction(
        lambda answer, given: any(option in answer for option in _LONE_ANSWERS)
    ),
    "detectable_format:number_highlighted_sections": Instruction(_highlights, ("num_highlights",)),
    "detectable_format:multiple_sections": Instruction(_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": Instruction(_json),
    "detectable_format:title": Instruction(_title),
    "combination:two_responses": Instruction(_two_responses),
    "combination:repeat_prompt": Instruction(_begins_with_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": Instruction(_ends, ("end_phrase",)),
    "startend:quotation": Instruction(_quoted),
    "change_case:capital_word_frequency": Instruction(
        _counted(_capital_words, "capital_frequency", "capital_relation"), ("capital_frequency", "capital_relation")
    ),
    "change_case:english_capital": Instruction(lambda answer, given: answer.isupper() and _is_language(answer, "en")),
    "change_case:english_lowercase": Instruction(lambda answer, given: answer.islower() and _is_language(answer, "en")),
    "punctuation:no_comma": Instruction(lambda answer, given: "," not in answer),
}

_BY_LANGUAGE = frozenset({"language:response_language", "change_case:english_capital", "change_case:english_lowercase"})
