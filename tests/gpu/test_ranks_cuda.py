"""Groups of ranks on CUDA: over NCCL if every rank has its own GPU, else staged through the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.inprocess import greedy
from fixtures.near_ties import gaps_and_error
from fixtures.ranks import RankedEngine
from fixtures.tiny_models import greedy_reference, random_prompts, write_hf

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LENGTHS = [1, 17, 33, 70, 5, 40]
SHAPES = [{"pp": 2}, {"tp": 2}, {"pp": 2, "tp": 2}]


@pytest.mark.parametrize("variant", ["llama", "qwen2-tied", "qwen3"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(f"{k}{v}" for k, v in shape.items()))
def test_float32_is_exact(variant: str, shape: dict[str, int], tmp_path: Path) -> None:
    folder = write_hf(variant, tmp_path, head_dim=64, num_hidden_layers=4)
    prompts = random_prompts(LENGTHS, seed=3)
    with RankedEngine(folder, device="cuda", dtype="float32", max_prefill_tokens=24, **shape) as engine:
        got = [answer.token_ids for answer in engine.generate(prompts, greedy())]
    assert got == greedy_reference(folder, prompts, 24)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("shape", SHAPES[:2], ids=["pp2", "tp2"])
def test_bfloat16_with_flashinfer_differs_only_at_near_ties(
    shape: dict[str, int], graphs: bool, tmp_path: Path
) -> None:
    folder = write_hf("qwen3", tmp_path, head_dim=64, num_hidden_layers=4)
    prompts = random_prompts(LENGTHS, seed=3)
    settings: dict[str, Any] = {"max_prefill_tokens": 24, "enforce_eager": not graphs, "max_num_seqs": 16}
    with RankedEngine(folder, device="cuda", dtype="bfloat16", **settings, **shape) as engine:
        answers = engine.generate(prompts, greedy())
    gaps, error = gaps_and_error(folder, prompts, answers)
    assert float(gaps.max()) <= 2 * error
