"""The real model: SmolLM2-135M-Instruct from its GGUF, against transformers reading the same file."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers

from fixtures.inprocess import InProcessEngine, greedy
from gllm.apps.eval.agreement import perplexity, windows
from gllm.apps.eval.sample_text import TEXT
from gllm.hub.default_model import default_model_path
from gllm.text.tokenizer import load_tokenizer

QUESTIONS = [
    "What is the capital of France?",
    "Explain gravity to a five-year-old.",
    "Write a haiku about the sea.",
    "List three uses of baking soda.",
    "How do I reverse a list in Python?",
    "Translate 'good morning' into Spanish.",
    "What is 17 plus 25?",
    "Who wrote Pride and Prejudice?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Summarize the story of Cinderella in two sentences.",
    "What is photosynthesis?",
    "Name four programming languages and what each is known for.",
    "What should I pack for a weekend trip to the mountains?",
    "Write a SQL query that counts users by country.",
    "Describe the water cycle.",
    "What causes tides?",
    "Tell me a joke about computers.",
    "How many continents are there, and what are they called?",
    "Write a short email asking for a day off.",
]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(default_model_path())
    return [
        tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n") for question in QUESTIONS
    ]


@cache
def _reference(dtype: torch.dtype) -> Any:
    path = default_model_path()
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()


def _logits(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return the logits [answer, vocab] at each position of the answer."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.float()


def _gaps(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """Return the distance [answer] of each token's logit from the best one: 0 for the argmax."""
    return logits.max(-1).values - logits.gather(1, torch.tensor(answer)[:, None])[:, 0]


def test_float32_is_equal_token_for_token(prompts: list[list[int]]) -> None:
    """An answer whose every token is transformers' argmax, given the answer so far, is transformers' greedy answer."""
    engine = InProcessEngine(default_model_path(), dtype="float32", threads=2, num_pages=400, max_prefill_tokens=100)
    answers = engine.generate(prompts, greedy(32))
    model = _reference(torch.float32)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert _gaps(_logits(model, prompt, answer.token_ids), answer.token_ids).max() == 0


def test_bfloat16_differs_only_at_near_ties(prompts: list[list[int]]) -> None:
    """A near-tie: float32 logits closer than twice the error that transformers' own bfloat16 logits have here."""
    engine = InProcessEngine(default_model_path(), dtype="bfloat16", threads=2, num_pages=400, max_prefill_tokens=100)
    answers = engine.generate(prompts, greedy(32))
    exact, rounded = _reference(torch.float32), _reference(torch.bfloat16)
    gaps, errors = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = _logits(exact, prompt, answer.token_ids)
        leaders = logits.topk(5).indices
        error = (logits - _logits(rounded, prompt, answer.token_ids)).gather(1, leaders)
        gaps.append(_gaps(logits, answer.token_ids))
        errors.append(error.abs().max())
    all_gaps = torch.cat(gaps)
    assert all_gaps.max() <= 2 * max(errors)
    assert (all_gaps == 0).float().mean() > 0.95


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 0.01)])
def test_the_perplexity_of_a_text_is_that_of_transformers(dtype: str, error: float) -> None:
    """error: relative. bfloat16 changes a token's probability by a few percent, but no more in one direction."""
    texts = windows(load_tokenizer(default_model_path()).encode(TEXT), 128)
    engine = InProcessEngine(default_model_path(), dtype=dtype, threads=2, num_pages=400, max_prefill_tokens=100)
    scored = [answer.prompt_logprobs or [] for answer in engine.generate(texts, greedy(1, prompt_logprobs=0))]
    ours = perplexity([entry.logprob for entries in scored for entry in entries if entry is not None])
    model, exact = _reference(torch.float32), []
    for text in texts:
        with torch.inference_mode():
            logprobs = model(torch.tensor([text])).logits[0, :-1].log_softmax(-1)
        exact += logprobs.gather(1, torch.tensor(text[1:])[:, None])[:, 0].tolist()
    assert ours == pytest.approx(perplexity(exact), rel=error)
    assert 15 < ours < 80
