"""Sampled tokens return to the first stage over peer memory and over NCCL, while steps are launched ahead of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.inprocess import Answer, greedy
from fixtures.ranks import RankedEngine
from fixtures.tiny_models import greedy_reference, random_prompts, write_hf

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")]

LINKS = {"peer-memory": {}, "nccl": {"NCCL_P2P_DISABLE": "1"}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("llama"), head_dim=64, num_hidden_layers=4)


@pytest.fixture(params=[(2, 1), (2, 2)], ids=["pp2", "pp2-tp2"])
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    pp, tp = request.param
    if pp * tp > torch.cuda.device_count():
        pytest.skip(f"needs {pp * tp} CUDA devices")
    return {"pp": pp, "tp": tp, "device": "cuda"}


@pytest.mark.parametrize("link", LINKS)
def test_one_stream_is_scheduled_ahead_of_its_tokens(llama: Path, shape: dict[str, Any], link: str) -> None:
    (prompt,) = random_prompts([9], seed=1)
    with RankedEngine(llama, dtype="float32", env=LINKS[link], **shape) as engine:
        (answer,) = engine.generate([prompt], greedy(200))
        assert [answer.token_ids] == greedy_reference(llama, [prompt], 200)
        assert engine.deepest >= 2, "no step was scheduled before the result of the last one"


@pytest.mark.parametrize("link", LINKS)
def test_aborts_and_reused_slots_change_no_other_token(llama: Path, shape: dict[str, Any], link: str) -> None:
    prompts = random_prompts([3, 9, 5, 14, 7, 4, 11, 6, 8, 3] * 4, seed=4)
    expected = greedy_reference(llama, prompts, 40)
    settings: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 5, "max_prefill_tokens": 8, "page_size": 4}
    with RankedEngine(llama, env=LINKS[link], **shape, **settings) as engine:
        engine.aborts = {7 * number: f"r{3 * number}" for number in range(1, 14)}
        for prompt in prompts:
            engine.submit(prompt, greedy(40))
        answers = engine.run()
        assert engine.pool.num_free == engine.pool.num_pages
    for number, tokens in enumerate(expected, start=1):
        answer = answers.get(f"r{number}", Answer())
        assert answer.token_ids == tokens[: len(answer.token_ids)]
        if f"r{number}" not in engine.aborts.values():
            assert answer.token_ids == tokens


def test_many_answers_of_one_token(llama: Path, shape: dict[str, Any]) -> None:
    """The first stage needs none of the tokens; the last one must not wait until they are received."""
    prompts = random_prompts([5] * 60, seed=3)
    settings: dict[str, Any] = {"max_prefill_tokens": 5, "min_prefill_tokens": 5}
    with RankedEngine(llama, dtype="float32", **shape, **settings) as engine:
        got = [answer.token_ids for answer in engine.generate(prompts, greedy(1))]
    assert got == greedy_reference(llama, prompts, 1)
