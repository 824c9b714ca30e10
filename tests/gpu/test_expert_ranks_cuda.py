"""Experts divided among ranks on CUDA: over NCCL if every rank has its own GPU, else staged through the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fixtures.inprocess import greedy
from fixtures.near_ties import gaps_and_error
from fixtures.ranks import RankedEngine
from fixtures.tiny_models import greedy_reference, random_prompts, write_hf

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LENGTHS = [1, 17, 33, 70, 5, 40]


@pytest.mark.parametrize(
    ("variant", "pp", "tp", "ep"),
    [
        ("glm4", 1, 2, 1),
        ("chatglm3", 2, 1, 1),
        ("qwen3-moe", 2, 1, 1),
        ("qwen3-moe", 1, 2, 1),
        ("qwen2-moe", 1, 2, 2),
        ("mixtral", 2, 2, 2),
    ],
)
def test_float32_is_exact(variant: str, pp: int, tp: int, ep: int, tmp_path: Path) -> None:
    folder = write_hf(variant, tmp_path)
    prompts = random_prompts(LENGTHS, seed=5)
    with RankedEngine(folder, pp=pp, tp=tp, ep=ep, device="cuda", dtype="float32", max_prefill_tokens=24) as engine:
        got = [answer.token_ids for answer in engine.generate(prompts, greedy(12))]
    assert got == greedy_reference(folder, prompts, 12)


@pytest.mark.parametrize("ep", [1, 2])
def test_bfloat16_with_triton_differs_only_at_near_ties(ep: int, tmp_path: Path) -> None:
    folder = write_hf("qwen3-moe", tmp_path, head_dim=64)
    prompts = random_prompts(LENGTHS, seed=5)
    with RankedEngine(
        folder, tp=2, ep=ep, device="cuda", dtype="bfloat16", max_prefill_tokens=24, max_num_seqs=16
    ) as engine:
        answers = engine.generate(prompts, greedy(12))
    gaps, error = gaps_and_error(folder, prompts, answers)
    assert float(gaps.max()) <= 2 * error
