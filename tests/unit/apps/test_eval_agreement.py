"""`gllm eval agreement` without a server: figures by hand, and an engine beside transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.tiny_models import random_prompts, write_hf
from gllm.apps.cli.eval.agreement import Limits
from gllm.apps.eval.agreement import Agreement, Compared, measure, windows
from gllm.apps.eval.reference import Reference


def test_figures_by_hand() -> None:
    answers = [Compared([0.0, 0.0]), Compared([0.0, 0.5, 0.0]), Compared([]), Compared([0.25])]
    found = measure(answers, [-1.0, -3.0], [-1.0, -2.0])
    assert (found.tokens.correct, found.tokens.outcomes, found.tokens.questions) == (4, 6, 3)
    assert (found.equal_answers, found.answers, found.first_divergences) == (1, 3, [None, 1, 0])
    assert (found.median_divergence, found.largest_gap) == (0.5, 0.5)
    assert (found.perplexity, found.reference_perplexity) == pytest.approx((math.exp(2), math.exp(1.5)))
    assert found.perplexity_increase == pytest.approx(math.exp(0.5) - 1)
    assert (found.mean_logprob_error, found.largest_logprob_error) == (0.5, 1.0)
    with pytest.raises(ValueError, match="there is no token to compare"):
        measure([Compared([])], [-1.0], [-1.0])


def test_windows_of_a_text() -> None:
    assert windows(range(7), 3) == [[0, 1, 2], [3, 4, 5]]
    assert windows(range(8), 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("qwen3", tmp_path_factory.mktemp("qwen3"))


def compare(served: Path, reference: Path, *, dtype: str = "float32") -> Agreement:
    prompts, texts = random_prompts([5, 9, 17, 33], seed=1), random_prompts([40, 64], seed=2)
    engine = InProcessEngine(served, dtype=dtype)
    answers = engine.generate(prompts, greedy(24, ignore_eos=True))
    scored = engine.generate(texts, greedy(1, prompt_logprobs=0))
    judge = Reference(reference, dtype="float32", device="cpu")
    return measure(
        [judge.compare(prompt, answer.token_ids) for prompt, answer in zip(prompts, answers, strict=True)],
        [entry.logprob for answer in scored for entry in answer.prompt_logprobs or [] if entry is not None],
        [value for text in texts for value in judge.logprobs(text)],
    )


def test_float32_agrees_in_every_token(folder: Path) -> None:
    found = compare(folder, folder)
    assert (found.tokens.correct, found.tokens.outcomes) == (96, 96)
    assert (found.equal_answers, found.largest_gap, found.text_tokens) == (4, 0.0, 102)
    assert found.largest_logprob_error < 1e-4
    assert not Limits(1.0, 1e-5).failures(found)


def test_bfloat16_agrees_almost(folder: Path) -> None:
    found = compare(folder, folder, dtype="bfloat16")
    assert found.tokens.value > 0.9
    assert 1e-4 < found.mean_logprob_error < 0.2
    assert not Limits(0.9, 0.05).failures(found)


def test_other_weights_do_not_pass(folder: Path, tmp_path: Path) -> None:
    found = compare(folder, write_hf("qwen3", tmp_path, seed=1))
    assert found.tokens.value < 0.2
    agreement, perplexity = Limits(0.95, -0.5).failures(found)
    assert "is below --min-agreement 0.95" in agreement
    assert "more than --max-perplexity-increase -0.5 allows" in perplexity


def test_a_reference_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"--reference .*: transformers cannot load it"):
        Reference(tmp_path, dtype="float32", device="cpu")
