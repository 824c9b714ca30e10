"""Sampled tokens go from the last stage to the first, while the engine schedules steps without knowing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.inprocess import Answer, greedy
from fixtures.ranks import RankedEngine
from fixtures.tiny_models import greedy_reference, random_prompts, write_hf

SHAPES = [(2, 1), (2, 2), (3, 1)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=4)


@pytest.mark.parametrize(("pp", "tp"), SHAPES)
def test_one_stream_is_scheduled_ahead_of_its_tokens(llama: Path, pp: int, tp: int) -> None:
    (prompt,) = random_prompts([9], seed=1)
    with RankedEngine(llama, pp=pp, tp=tp, dtype="float32") as engine:
        (answer,) = engine.generate([prompt], greedy(60))
        assert [answer.token_ids] == greedy_reference(llama, [prompt], 60)
        assert engine.deepest >= 2, "no step was scheduled before the result of the last one"


@pytest.mark.parametrize(("pp", "tp"), SHAPES)
def test_aborts_and_reused_slots_change_no_other_token(llama: Path, pp: int, tp: int) -> None:
    """With few slots, a new sequence begins where the tokens of an aborted one are still on their way."""
    prompts = random_prompts([3, 9, 5, 14, 7, 4, 11, 6, 8, 3], seed=4)
    expected = greedy_reference(llama, prompts, 24)
    settings: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 3, "max_prefill_tokens": 8, "page_size": 4}
    with RankedEngine(llama, pp=pp, tp=tp, **settings) as engine:
        engine.aborts = {4: "r1", 7: "r2", 9: "r4", 14: "r5", 23: "r7", 30: "r8"}
        for prompt in prompts:
            engine.submit(prompt, greedy(24))
        answers = engine.run()
        assert engine.pool.num_free == engine.pool.num_pages
    for number, tokens in enumerate(expected, start=1):
        answer = answers.get(f"r{number}", Answer())
        assert answer.token_ids == tokens[: len(answer.token_ids)]
        if f"r{number}" not in engine.aborts.values():
            assert answer.token_ids == tokens


@pytest.mark.parametrize(("pp", "tp"), SHAPES[:2])
def test_tokens_behind_a_stop_token_are_dropped(llama: Path, pp: int, tp: int) -> None:
    prompts = random_prompts([4, 7, 12], seed=8)
    expected = greedy_reference(llama, prompts, 24)
    stops = [tokens[place] for tokens, place in zip(expected, (3, 10, 17), strict=True)]
    asked = [greedy(24, stop_token_ids=(stop,)) for stop in stops]
    with RankedEngine(llama, pp=pp, tp=tp, dtype="float32", page_size=4) as engine:
        got = engine.generate(prompts, asked)
        assert engine.scheduler.num_in_flight == 0
    for answer, tokens, stop in zip(got, expected, stops, strict=True):
        assert answer.token_ids == tokens[: tokens.index(stop) + 1]
        assert answer.finish_reason == "stop"


def test_steps_that_sample_and_no_decode_do_not_fill_the_link(llama: Path) -> None:
    """Many answers of one token: the first stage needs none of them, and receives them all."""
    prompts = random_prompts([5] * 40, seed=3)
    with RankedEngine(llama, pp=2, dtype="float32", max_prefill_tokens=5, min_prefill_tokens=5) as engine:
        got = [answer.token_ids for answer in engine.generate(prompts, greedy(1))]
        assert len(engine.steps) >= 40
    assert got == greedy_reference(llama, prompts, 1)
