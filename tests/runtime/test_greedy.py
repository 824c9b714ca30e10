"""Greedy output equals transformers', token for token, for all ways of scheduling."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.inprocess import InProcessEngine, greedy, shuffled
from fixtures.tiny_models import VARIANTS, greedy_reference, random_prompts, write_hf
from gllm.config import POLICY_NAMES
from gllm_kernels import cpu

BACKENDS = ["reference", *(["native"] if cpu.available() else [])]
LENGTHS = [1, 5, 16, 17, 33, 70, 90, 3]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[list[int]], list[list[int]]]]:
    """For each family: its folder, prompts and transformers' answers."""
    cases = {}
    for variant in VARIANTS:
        folder = write_hf(variant, tmp_path_factory.mktemp(variant))
        prompts = random_prompts(LENGTHS, seed=3)
        cases[variant] = (folder, prompts, greedy_reference(folder, prompts, 24))
    return cases


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_ragged_batches_and_chunked_prompts(expected: dict, variant: str, backend: str) -> None:
    folder, prompts, answers = expected[variant]
    engine = InProcessEngine(folder, dtype="float32", attention_backend=backend, max_prefill_tokens=24, page_size=8)
    got = engine.generate(prompts, greedy())
    assert [answer.token_ids for answer in got] == answers
    assert any(sum(step.num_tokens) > len(step.slots) and 1 in step.num_tokens for step in engine.steps)
    assert engine.pool.num_free == engine.pool.num_pages


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_preemption_in_a_tiny_pool(expected: dict, variant: str, backend: str) -> None:
    folder, prompts, answers = expected[variant]
    engine = InProcessEngine(
        folder, dtype="float32", attention_backend=backend, page_size=4, num_pages=40, kv_threshold=0.0
    )
    got = engine.generate(prompts, greedy())
    assert [answer.token_ids for answer in got] == answers
    assert sum(answer.num_preemptions for answer in got) > 0
    assert engine.pool.num_free == engine.pool.num_pages


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_prefix_hits(expected: dict, variant: str, backend: str) -> None:
    folder, prompts, answers = expected[variant]
    engine = InProcessEngine(folder, dtype="float32", attention_backend=backend, page_size=8)
    engine.generate(prompts, greedy())
    again = engine.generate(prompts, greedy())
    assert [answer.token_ids for answer in again] == answers
    assert all(answer.num_cached_tokens > 0 for answer, prompt in zip(again, prompts, strict=True) if len(prompt) > 8)
    # A prompt that starts with an earlier prompt and its answer also hits the pages of generated tokens.
    continued = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
    assert [a.token_ids for a in engine.generate(continued, greedy(1))] == [[answer[-1]] for answer in answers]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy(expected: dict, policy: str) -> None:
    folder, prompts, answers = expected["llama"]
    engine = InProcessEngine(folder, dtype="float32", policy=policy, max_prefill_tokens=40, max_num_seqs=4)
    order = shuffled(range(len(prompts)), seed=1)
    got = engine.generate([prompts[i] for i in order], greedy())
    assert [answer.token_ids for answer in got] == [answers[i] for i in order]


@pytest.mark.parametrize("page_size", [1, 2, 32, 128])
@pytest.mark.parametrize("backend", BACKENDS)
def test_page_sizes(expected: dict, page_size: int, backend: str) -> None:
    folder, prompts, answers = expected["qwen3"]
    engine = InProcessEngine(
        folder, dtype="float32", attention_backend=backend, page_size=page_size, num_pages=1 + 800 // page_size
    )
    assert [answer.token_ids for answer in engine.generate(prompts, greedy())] == answers
