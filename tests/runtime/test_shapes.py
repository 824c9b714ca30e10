"""Greedy output equals transformers', token for token, for all ways to divide the model between ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.ranks import RankedEngine
from fixtures.tiny_models import VARIANTS, greedy_reference, random_prompts, write_gguf, write_hf
from gllm.config import POLICY_NAMES
from gllm.sampling_params import SamplingParams
from gllm.text.grammar import grammar_from_regex

SHAPES = [(2, 1), (1, 2), (2, 2), (3, 1), (4, 1)]
LENGTHS = [1, 17, 33, 70, 5, 40]
NUM_LAYERS = 5


MOE = [variant for variant in VARIANTS if "moe" in variant or variant == "mixtral"]
"""Families with experts."""
ROPE_ONLY = ("llama3", "deepseek-coder", "qwen2-tied", "llama-tied")
"""Variants whose differences no rank divides, or that another variant tests too."""


@pytest.fixture(scope="module", params=[variant for variant in VARIANTS if variant not in ROPE_ONLY])
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


@pytest.fixture(scope="module")
def moe_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list, list]]:
    cases = {}
    for variant in MOE:
        folder = write_hf(variant, tmp_path_factory.mktemp(variant))
        prompts = random_prompts(LENGTHS, seed=6)
        cases[variant] = (folder, prompts, greedy_reference(folder, prompts, 12))
    return cases


@pytest.mark.parametrize(("pp", "tp", "ep"), [(1, 2, 2), (1, 4, 4), (1, 4, 2), (2, 2, 2)])
@pytest.mark.parametrize("variant", MOE)
def test_experts_on_ranks_of_their_own(moe_cases: dict, variant: str, pp: int, tp: int, ep: int) -> None:
    """Tokens are sent to the ranks of their experts; with tp > ep each expert is divided among tp / ep ranks as well.

    A decode of one token leaves all ranks but one without a share of the tokens.
    """
    folder, prompts, answers = moe_cases[variant]
    with RankedEngine(folder, pp=pp, tp=tp, ep=ep, dtype="float32", max_prefill_tokens=24, page_size=8) as engine:
        assert [answer.token_ids for answer in engine.generate(prompts, greedy(12))] == answers


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=4)


@pytest.mark.parametrize(("pp", "tp"), [(2, 1), (1, 2), (2, 2)])
def test_a_group_answers_as_one_worker_does(llama: Path, pp: int, tp: int) -> None:
    """Seeded draws, filters, penalties, masks, grammars, biases, logprobs of both kinds, with a pool that preempts."""
    prompts = random_prompts([9, 30, 21, 40, 12, 25, 14], seed=7)
    asked = [
        SamplingParams(temperature=0.9, top_p=0.8, top_k=40, seed=1, max_tokens=20),
        SamplingParams(temperature=1.0, seed=2, max_tokens=20, repetition_penalty=1.3, presence_penalty=0.4),
        SamplingParams(temperature=0.7, seed=3, max_tokens=20, logprobs=3),
        SamplingParams(temperature=0.0, max_tokens=12, prompt_logprobs=2, logprobs=1),
        SamplingParams(temperature=0.8, seed=4, max_tokens=20, logit_bias={7: 4.0}, min_p=0.05),
        SamplingParams(temperature=1.0, seed=5, max_tokens=20, grammar=grammar_from_regex("[a-f]{4,9}")),
        SamplingParams(seed=6, max_tokens=30, allowed_token_ids=(20, 21, 22, 23), bad_word_ids=((21,), (22, 23, 22))),
    ]
    settings = {"dtype": "float32", "page_size": 4, "num_pages": 40, "kv_threshold": 0.0, "max_prefill_tokens": 16}
    expected = InProcessEngine(llama, **settings).generate(prompts, asked)
    with RankedEngine(llama, pp=pp, tp=tp, **settings) as engine:
        got = engine.generate(prompts, asked)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.error is None
        assert mine.token_ids == theirs.token_ids
        assert [entry.token_id for entry in mine.logprobs] == [entry.token_id for entry in theirs.logprobs]
        for entries, others in ((mine.logprobs, theirs.logprobs), (mine.prompt_logprobs, theirs.prompt_logprobs)):
            values = [entry.logprob for entry in entries or [] if entry is not None]
            assert values == pytest.approx([entry.logprob for entry in others or [] if entry is not None], abs=1e-4)
    assert got[3].prompt_logprobs is not None
    assert len(got[3].prompt_logprobs) == len(prompts[3])
    masked = got[6].token_ids
    assert set(masked) == {20, 22, 23}
    assert [22, 23, 22] not in [masked[place : place + 3] for place in range(len(masked))]
    assert any(masked[place : place + 2] == [22, 23] for place in range(len(masked)))


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_in_a_pipeline(llama: Path, policy: str) -> None:
    prompts = random_prompts(LENGTHS * 2, seed=9)
    answers = greedy_reference(llama, prompts, 12)
    with RankedEngine(llama, pp=3, policy=policy, dtype="float32", max_prefill_tokens=32, page_size=8) as engine:
        got = engine.generate(prompts, greedy(12))
        assert [answer.token_ids for answer in got] == answers
        assert engine.deepest == 4, "pp + 1 micro-batches in flight"


def test_chunks_of_one_prompt_follow_each_other_in_the_pipeline(llama: Path) -> None:
    """The second chunk is scheduled before the first one's result is known."""
    (prompt,) = random_prompts([200], seed=2)
    with RankedEngine(llama, pp=3, policy="chunked_prefill", dtype="float32", max_prefill_tokens=50) as engine:
        (answer,) = engine.generate([prompt], greedy(4))
        assert [answer.token_ids] == greedy_reference(llama, [prompt], 4)
        assert [sum(step.num_tokens) for step in engine.steps][:4] == [50, 50, 50, 50]
        assert engine.deepest >= 3, "the fourth is scheduled when the first reaches the last stage, or later"


def test_gguf_slices(llama: Path, tmp_path: Path) -> None:
    path = write_gguf(llama, tmp_path / "model.gguf", "Q8_0")
    prompts = random_prompts(LENGTHS, seed=5)
    expected = [answer.token_ids for answer in InProcessEngine(path, dtype="float32").generate(prompts, greedy(12))]
    with RankedEngine(path, pp=2, tp=2, dtype="float32") as engine:
        assert [answer.token_ids for answer in engine.generate(prompts, greedy(12))] == expected


@pytest.mark.parametrize("layers", [(1, 2, 1), (1, 1, 1, 1)])
def test_stages_as_assigned_down_to_a_layer_each(llama: Path, layers: tuple[int, ...]) -> None:
    prompts = random_prompts(LENGTHS, seed=5)
    answers = greedy_reference(llama, prompts, 12)
    with RankedEngine(llama, pp=len(layers), dtype="float32", assigned_layers=layers) as engine:
        assert [answer.token_ids for answer in engine.generate(prompts, greedy(12))] == answers
