"""Greedy output is transformers', token for token, however the model is divided between ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.inprocess import greedy
from fixtures.ranks import RankedEngine
from fixtures.tiny_models import VARIANTS, greedy_reference, random_prompts, write_hf

SHAPES = [(2, 1), (1, 2), (2, 2), (3, 1), (4, 1)]
LENGTHS = [1, 17, 33, 70, 5, 40]
NUM_LAYERS = 5


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list, list]:
    """(folder, prompts, transformers' answers) of a variant."""
    folder = write_hf(request.param, tmp_path_factory.mktemp(request.param), num_hidden_layers=NUM_LAYERS)
    prompts = random_prompts(LENGTHS, seed=5)
    return folder, prompts, greedy_reference(folder, prompts, 16)


@pytest.mark.parametrize(("pp", "tp"), SHAPES)
def test_every_family_at_every_shape(case: tuple[Path, list, list], pp: int, tp: int) -> None:
    """Ragged batches, prompts in chunks that overlap in the pipeline, decodes spread over micro-batches."""
    folder, prompts, answers = case
    with RankedEngine(folder, pp=pp, tp=tp, dtype="float32", max_prefill_tokens=24, page_size=8) as engine:
        got = engine.generate(prompts, greedy(16))
        assert [answer.token_ids for answer in got] == answers
        assert engine.pool.num_free == engine.pool.num_pages
        assert {report.stage for report in engine.reports} == set(range(pp))
