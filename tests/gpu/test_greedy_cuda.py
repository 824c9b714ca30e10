"""Greedy output on CUDA against transformers, for small random models of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.near_ties import gaps_and_error
from fixtures.tiny_models import VARIANTS, greedy_reference, random_prompts, write_hf
from gllm.config import POLICY_NAMES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LENGTHS = [1, 5, 16, 17, 33, 70, 90, 3]
TINY_POOL = {"page_size": 4, "num_pages": 40, "kv_threshold": 0.0}
FAMILIES = [variant for variant in VARIANTS if not variant.endswith(("-bias", "-tied"))]


def _folder(variant: str, path: Path) -> Path:
    """FlashInfer's kernels are for head_dim 64 and up."""
    return write_hf(variant, path, head_dim=64)


@pytest.mark.parametrize("variant", FAMILIES)
def test_float32_with_plain_attention_is_exact(variant: str, tmp_path: Path) -> None:
    folder = _folder(variant, tmp_path)
    prompts = random_prompts(LENGTHS, seed=3)
    engine = InProcessEngine(folder, device="cuda", dtype="float32", max_prefill_tokens=24)
    assert engine.backend == "reference"
    got = [answer.token_ids for answer in engine.generate(prompts, greedy())]
    assert got == greedy_reference(folder, prompts, 24)


@pytest.mark.parametrize("settings", [{"max_prefill_tokens": 24}, TINY_POOL, {"enforce_eager": True}])
@pytest.mark.parametrize("variant", FAMILIES)
def test_bfloat16_with_flashinfer_differs_only_at_near_ties(
    variant: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = _folder(variant, tmp_path)
    prompts = random_prompts(LENGTHS, seed=3)
    engine = InProcessEngine(folder, device="cuda", dtype="bfloat16", **settings)
    assert engine.backend == "flashinfer"
    answers = engine.generate(prompts, greedy())
    again = engine.generate(prompts, greedy())  # prefix hits
    for round_of_answers in (answers, again):
        gaps, error = gaps_and_error(folder, prompts, round_of_answers)
        assert gaps.max() <= 2 * error
        assert (gaps == 0).float().mean() > 0.9
    if settings is TINY_POOL:
        assert sum(answer.num_preemptions for answer in answers) > 0


def test_prompts_of_all_sizes_of_piecewise_graphs(tmp_path: Path) -> None:
    """Steps of 1 to 2100 tokens, prompts and decodes mixed: in pieces, padded, and eager above the largest size."""
    folder = write_hf("qwen3", tmp_path, head_dim=64, max_position_embeddings=4096)
    prompts = random_prompts([2100, 9, 700, 65, 1, 300, 1500], seed=9)
    for policy in ("balanced", "chunked_prefill"):
        engine = InProcessEngine(
            folder, device="cuda", dtype="bfloat16", max_model_len=4096, max_prefill_tokens=2500, policy=policy
        )
        gaps, error = gaps_and_error(folder, prompts, engine.generate(prompts, greedy()))
        assert gaps.max() <= 2 * error


_WIDE = {"original_max_position_embeddings": 64, "rope_theta": 10000.0}
_FACTORS = {"short_factor": [1.0 + index / 32 for index in range(32)], "long_factor": [2.0] * 32}


@pytest.mark.parametrize(
    "rope", [{"rope_type": "yarn", "factor": 4.0, **_WIDE}, {"rope_type": "longrope", **_FACTORS, **_WIDE}]
)
def test_scaled_rope(rope: dict[str, Any], tmp_path: Path) -> None:
    """Short and long prompts together. All answers end before the length at which longrope changes its factors."""
    folder = write_hf("llama", tmp_path, head_dim=64, max_position_embeddings=256, rope_parameters=rope)
    prompts = random_prompts([5, 30, 80, 200, 39], seed=6)
    exact = InProcessEngine(folder, device="cuda", dtype="float32", max_model_len=256)
    expected = greedy_reference(folder, prompts, 24)
    assert [answer.token_ids for answer in exact.generate(prompts, greedy())] == expected
    engine = InProcessEngine(folder, device="cuda", dtype="bfloat16", max_model_len=256)
    assert engine.backend == "flashinfer"
    gaps, error = gaps_and_error(folder, prompts, engine.generate(prompts, greedy()))
    assert gaps.max() <= 2 * error


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy(policy: str, tmp_path: Path) -> None:
    folder = _folder("llama", tmp_path)
    prompts = random_prompts(LENGTHS, seed=3)
    engine = InProcessEngine(
        folder, device="cuda", dtype="float32", policy=policy, max_prefill_tokens=40, max_num_seqs=4
    )
    assert [answer.token_ids for answer in engine.generate(prompts, greedy())] == greedy_reference(folder, prompts, 24)


def test_seeded_sampling_repeats_in_a_batch(tmp_path: Path) -> None:
    from gllm.sampling_params import SamplingParams

    folder = _folder("llama", tmp_path)
    prompts = random_prompts([12, 40, 7, 25], seed=5)
    params = [
        SamplingParams(temperature=0.8, seed=1, max_tokens=16),
        SamplingParams(temperature=1.0, top_k=20, seed=2, max_tokens=16),
        SamplingParams(temperature=1.2, top_p=0.8, presence_penalty=0.5, seed=3, max_tokens=16),
        SamplingParams(temperature=0.9, min_p=0.05, repetition_penalty=1.2, seed=4, max_tokens=16),
    ]

    def engine() -> InProcessEngine:
        return InProcessEngine(folder, device="cuda", dtype="float32")

    together = [answer.token_ids for answer in engine().generate(prompts, params)]
    for prompt, entry, expected in zip(prompts, params, together, strict=True):
        assert engine().generate([prompt], entry)[0].token_ids == expected
