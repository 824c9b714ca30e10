"""The benchmarks of `gllm eval`: published rows become prompts, and answers are judged as the authors judge them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.eval_data import mmlu_pro_rows, write_mmlu_pro, write_rows
from gllm.apps.cli.eval.benchmarks import load_questions
from gllm.apps.eval import gsm8k, ifeval, mmlu_pro
from gllm.apps.eval.task import Outcome, Question


def question(row: dict[str, Any], *examples: dict[str, Any]) -> Question:
    return Question(id="1", subject=row.get("category", ""), row=row, examples=examples)


# --- MMLU-Pro

OWL = {
    "question_id": 7,
    "question": "Which bird is awake at night?",
    "options": ["Owl", "Lark", "N/A"],
    "answer": "A",
    "cot_content": "A: Let's think step by step. Owls hunt at night. The answer is (A).",
    "category": "biology",
}
COD = {**OWL, "question_id": 8, "question": "Which one swims?", "options": ["Cat", "Cod"], "answer": "B"}


def test_the_chat_prompt_is_the_authors() -> None:
    assert mmlu_pro.prompt(question(COD, OWL), 5, "chat") == (
        "The following are multiple choice questions (with answers) about biology. Think step by step and then output "
        'the answer in the format of "The answer is (X)" at the end.\n\n'
        "Question: Which bird is awake at night?\nOptions: A. Owl\nB. Lark\n"
        "Answer: Let's think step by step. Owls hunt at night. The answer is (A).\n\n"
        "Question: Which one swims?\nOptions: A. Cat\nB. Cod\nAnswer: Let's think step by step.\n\n"
    )


def test_the_text_prompt_is_the_authors() -> None:
    assert mmlu_pro.prompt(question(COD, OWL), 5, "completions") == (
        "The following are multiple choice questions (with answers) about biology. Think step by step and then finish "
        'your answer with "the answer is (X)" where X is the correct letter choice.\n\n\n\n'
        "Question:\nWhich bird is awake at night?\nOptions:\nA. Owl\nB. Lark\n"
        "Answer: Let's think step by step. Owls hunt at night. The answer is (A).\n\n"
        "Question:\nWhich one swims?\nOptions:\nA. Cat\nB. Cod\nAnswer: Let's think step by step."
    )


def test_shots_are_the_first_examples_of_the_subject() -> None:
    questions = mmlu_pro.load(mmlu_pro_rows(1), mmlu_pro_rows(6, worked=True))
    for one in questions:
        assert {row["category"] for row in one.examples} == {one.subject}
        assert [mmlu_pro.prompt(one, shots, "chat").count("Question: ") for shots in (0, 1, 5)] == [1, 2, 6]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The answer is (C). No, the answer is (D).", "C"),
        ("so the answer is B", "B"),
        ("**The answer is (J)**", "J"),
        ("the answer is **(E)**", "E"),
        ("Final Answer: F", "F"),
        ("It could be A, or rather G.", "G"),
        ("The answer is (K).", None),
        ("I do not know.", "I"),  # so it is with the authors' last pattern
        ("No idea.", None),
        ("", None),
    ],
)
def test_extraction_of_the_letter(answer: str, letter: str | None) -> None:
    assert mmlu_pro.extract(answer) == letter


def test_no_letter_is_a_guess_for_accuracy_and_wrong_for_strict() -> None:
    rows = mmlu_pro_rows(100)
    outcomes = [mmlu_pro.score(one, "no idea") for one in mmlu_pro.load(rows, [])]
    assert not any(outcome.correct for pair in outcomes for outcome in pair if outcome.metric == "strict")
    guessed = sum(outcome.correct for pair in outcomes for outcome in pair if outcome.metric == "accuracy")
    assert 8 <= guessed <= 35  # a tenth of 200
    assert outcomes == [mmlu_pro.score(one, "no idea") for one in mmlu_pro.load(rows, [])]
    right = [mmlu_pro.score(one, f"Answer: {one.row['answer']}") for one in mmlu_pro.load(rows, [])]
    assert [outcome.correct for outcome in right[0]] == [True, False]


# --- GSM8K

APPLES = {"question": "Two apples and three?", "answer": "2 + 3 = <<2+3=5>>5 apples.\n#### 5"}
PRICE = {"question": "What does it cost?", "answer": "It costs 1,200.\n#### 1,200"}


def test_the_prompt_of_gsm8k() -> None:
    assert gsm8k.prompt(question(PRICE, APPLES, APPLES), 1, "completions") == (
        "Question: Two apples and three?\nAnswer: 2 + 3 = <<2+3=5>>5 apples.\n#### 5\n\n"
        "Question: What does it cost?\nAnswer:"
    )


@pytest.mark.parametrize(
    ("answer", "flexible", "strict"),
    [
        ("It is\n#### 1200", True, True),
        ("#### $1,200.", True, False),  # the strict pattern allows no dollar sign
        ("#### 1,200. Then 7", False, True),
        ("The price is $1,200.", True, False),
        ("1200 or 1300", False, False),
        ("-1200", False, False),
        ("", False, False),
    ],
)
def test_numbers_of_gsm8k(answer: str, flexible: bool, strict: bool) -> None:
    assert gsm8k.score(question(PRICE), answer) == [Outcome("flexible", "", flexible), Outcome("strict", "", strict)]


# --- IFEval


def instructed(*pairs: tuple[str, dict[str, Any]]) -> Question:
    """As published: each entry of kwargs has all keys, most of them null."""
    kwargs = [{"num_words": None, "keywords": None, **arguments} for _, arguments in pairs]
    return question({"key": 1, "prompt": "Go.", "instruction_id_list": [name for name, _ in pairs], "kwargs": kwargs})


def test_strict_and_loose_of_prompts_and_instructions() -> None:
    asked = instructed(("punctuation:no_comma", {}), ("startend:quotation", {}))
    outcomes = ifeval.score(asked, 'Sure, here it is:\n"An answer"')
    assert outcomes == [
        Outcome("prompt_strict", "", False),
        Outcome("instruction_strict", "punctuation", False),
        Outcome("instruction_strict", "startend", False),
        Outcome("prompt_loose", "", True),
        Outcome("instruction_loose", "punctuation", True),
        Outcome("instruction_loose", "startend", True),
    ]
    assert not any(outcome.correct for outcome in ifeval.score(asked, ""))


def test_rows_that_cannot_be_checked_are_refused() -> None:
    for name, arguments, message in (
        ("keywords:no_such", {}, "the instruction 'keywords:no_such' is not known"),
        ("length_constraints:number_words", {"relation": "at least"}, "has no 'num_words'"),
    ):
        with pytest.raises(ValueError, match=message):
            ifeval.load([instructed((name, arguments)).row], [])


# --- files


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_published_folder_is_read(tmp_path: Path, suffix: str) -> None:
    write_mmlu_pro(tmp_path, 3, suffix=suffix)
    questions = load_questions(mmlu_pro.MMLU_PRO, str(tmp_path), 5)
    assert [one.row for one in questions] == mmlu_pro_rows(3, first_id=100)
    assert all(len(one.examples) == 5 for one in questions)


def test_one_file_takes_its_examples_from_its_folder(tmp_path: Path) -> None:
    tests = write_rows(tmp_path / "mine.jsonl", [PRICE])
    with pytest.raises(ValueError, match=r"few-shot prompts need the split 'train'.*--shots 0"):
        load_questions(gsm8k.GSM8K, str(tests), 5)
    assert load_questions(gsm8k.GSM8K, str(tests), 0)[0].examples == ()
    write_rows(tmp_path / "train.parquet", [APPLES] * 7)
    assert len(load_questions(gsm8k.GSM8K, str(tests), 5)[0].examples) == 7


def test_the_configuration_main_of_gsm8k_is_taken(tmp_path: Path) -> None:
    for folder, rows in (("main", [APPLES]), ("socratic", [PRICE])):
        for split in ("train", "test"):
            write_rows(tmp_path / folder / f"{split}-00000-of-00001.parquet", rows)
    assert [one.row for one in load_questions(gsm8k.GSM8K, str(tmp_path), 5)] == [APPLES]


def test_the_published_file_of_ifeval(tmp_path: Path) -> None:
    row = instructed(("keywords:existence", {"keywords": ["sea"]}), ("detectable_format:title", {})).row
    write_rows(tmp_path / "ifeval_input_data.jsonl", [row])
    (loaded,) = load_questions(ifeval.IFEVAL, str(tmp_path), 0)
    assert ifeval.prompt(loaded, 0, "chat") == "Go."
    assert all(outcome.correct for outcome in ifeval.score(loaded, "<<The sea>>\nblue"))


def test_errors_of_files_name_the_place_and_the_fix(tmp_path: Path) -> None:
    task = mmlu_pro.MMLU_PRO
    with pytest.raises(ValueError, match="no file of the split 'test'"):
        load_questions(task, str(tmp_path), 0)
    broken = tmp_path / "test.jsonl"
    broken.write_text('{"question": "Why?"}\nnot json\n')
    with pytest.raises(ValueError, match=r"test\.jsonl:2 is not JSON"):
        load_questions(task, str(broken), 0)
    broken.write_text('{"question": "Why?"}\n')
    with pytest.raises(ValueError, match="row 1 has no 'question_id'"):
        load_questions(task, str(broken), 0)
    (tmp_path / "test.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"test\.parquet is not parquet"):
        load_questions(task, str(tmp_path / "test.parquet"), 0)
    broken.write_text("\n")
    with pytest.raises(ValueError, match="there are no questions"):
        load_questions(task, str(broken), 0)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        load_questions(task, str(tmp_path / "nowhere"), 0)
    with pytest.raises(ValueError, match=r"is not in the cache .*--data takes a file or folder too"):
        load_questions(task, "", 0)
