"""Sampling through scheduler and worker: reproducible, isolated, and as requested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.tiny_models import EOS_ID, load_reference, random_prompts, write_hf
from gllm.sampling_params import SamplingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("llama"))


def _engine(folder: Path, **settings: object) -> InProcessEngine:
    return InProcessEngine(folder, dtype="float32", **settings)


SAMPLED = [
    SamplingParams(temperature=0.8, seed=11, max_tokens=20, ignore_eos=True),
    SamplingParams(temperature=1.0, top_k=20, seed=12, max_tokens=20, ignore_eos=True),
    SamplingParams(temperature=1.3, top_p=0.8, min_p=0.02, seed=13, max_tokens=20, ignore_eos=True),
    SamplingParams(temperature=0.7, presence_penalty=0.9, frequency_penalty=0.4, seed=14, max_tokens=20),
    SamplingParams(temperature=0.9, repetition_penalty=1.3, logit_bias={7: 2.5}, seed=15, max_tokens=20),
]


def test_seeded_sampling_alone_in_a_batch_and_after_preemption(folder: Path) -> None:
    prompts = random_prompts([12, 40, 7, 25, 18], seed=5)
    alone = []
    for prompt, params in zip(prompts, SAMPLED, strict=True):
        alone += [answer.token_ids for answer in _engine(folder).generate([prompt], params)]
    together = _engine(folder, max_prefill_tokens=16).generate(prompts, SAMPLED)
    assert [answer.token_ids for answer in together] == alone
    tight = _engine(folder, page_size=4, num_pages=24, kv_threshold=0.0).generate(prompts, SAMPLED)
    assert [answer.token_ids for answer in tight] == alone
    assert sum(answer.num_preemptions for answer in tight) > 0


def test_other_rows_change_nothing(folder: Path) -> None:
    prompts = random_prompts([30, 30, 11], seed=6)
    [quiet] = _engine(folder).generate(prompts[:1], greedy())
    hostile = SamplingParams(
        temperature=2.0,
        seed=1,
        logit_bias=dict.fromkeys(range(300), -100.0),
        repetition_penalty=50.0,
        logprobs=20,
        prompt_logprobs=20,
        min_tokens=20,
        max_tokens=24,
    )
    loud = _engine(folder).generate(prompts, [greedy(), hostile, SamplingParams(temperature=0, grammar="no grammar")])
    assert loud[0].token_ids == quiet.token_ids
    assert loud[2].finish_reason == "error"
    assert "grammar" in (loud[2].error or "")


def test_a_different_seed_gives_another_answer(folder: Path) -> None:
    [prompt] = random_prompts([9])
    params = [SamplingParams(temperature=1.5, seed=seed, max_tokens=16) for seed in range(6)]
    assert len({tuple(answer.token_ids) for answer in _engine(folder).generate([prompt] * 6, params)}) == 6


def test_eos_stop_tokens_and_lengths(folder: Path) -> None:
    [prompt] = random_prompts([9], seed=8)
    [free] = _engine(folder).generate([prompt], greedy(12, ignore_eos=True))
    stop = free.token_ids[5]
    first = free.token_ids.index(stop)
    [stopped] = _engine(folder).generate([prompt], greedy(12, ignore_eos=True, stop_token_ids=(stop,)))
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop"
    [late] = _engine(folder).generate([prompt], greedy(12, ignore_eos=True, stop_token_ids=(stop,), min_tokens=9))
    assert len(late.token_ids) >= 9
    assert stop not in late.token_ids[:9]
    [ended] = _engine(folder).generate([prompt], greedy(12, logit_bias={EOS_ID: 100.0}))
    assert ended.token_ids == [EOS_ID]
    assert ended.finish_reason == "stop"


def test_an_eos_that_only_the_tokenizer_names_ends_the_answer(folder: Path, tmp_path: Path) -> None:
    """As in a ChatML fine-tune: the configs name the base model's token, the tokenizer another one."""
    [prompt] = random_prompts([9], seed=8)
    [free] = _engine(folder).generate([prompt], greedy(12, ignore_eos=True))
    eos = free.token_ids[4]
    tuned = shutil.copytree(folder, tmp_path / "tuned")
    (tuned / "generation_config.json").unlink()
    settings = json.loads((tuned / "tokenizer_config.json").read_text())
    vocab = json.loads((tuned / "tokenizer.json").read_text())["model"]["vocab"]
    spelling = next(text for text, token in vocab.items() if token == eos)
    (tuned / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": spelling}))
    [answer] = _engine(tuned).generate([prompt], greedy(12))
    assert answer.token_ids == free.token_ids[: free.token_ids.index(eos) + 1]
    assert answer.finish_reason == "stop"
    [late] = _engine(tuned).generate([prompt], greedy(12, min_tokens=9))
    assert len(late.token_ids) >= 9
    assert eos not in late.token_ids[:9]


def test_logprobs_are_those_of_transformers(folder: Path) -> None:
    [prompt] = random_prompts([37], seed=9)
    engine = _engine(folder, max_prefill_tokens=16)
    [answer] = engine.generate([prompt], greedy(5, logprobs=4, prompt_logprobs=2))
    tokens = torch.tensor([prompt + answer.token_ids])
    with torch.inference_mode():
        reference = torch.log_softmax(load_reference(folder)(tokens).logits[0].float(), -1)
    assert answer.prompt_logprobs is not None
    assert answer.prompt_logprobs[0] is None
    assert len(answer.prompt_logprobs) == len(prompt)
    entries = [*answer.prompt_logprobs[1:], *answer.logprobs]
    assert len(entries) == len(prompt) - 1 + 5
    for position, entry in enumerate(entries):
        assert entry is not None
        row = reference[position]
        assert entry.token_id == int(tokens[0, position + 1])
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
        assert entry.rank == 1 + int((row > row[entry.token_id]).sum())
        for token, logprob in entry.top:
            assert logprob == pytest.approx(float(row[token]), abs=1e-3)


def test_scoring_a_prompt_generates_nothing(folder: Path) -> None:
    [prompt] = random_prompts([21], seed=10)
    [answer] = _engine(folder).generate([prompt], SamplingParams(max_tokens=0, prompt_logprobs=0))
    assert answer.token_ids == []
    assert answer.finish_reason == "length"
    assert answer.prompt_logprobs is not None
    assert len(answer.prompt_logprobs) == 21


def test_grammar_output_parses(folder: Path) -> None:
    from gllm.text.grammar import grammar_from_json_schema
    from gllm.text.tokenizer import load_tokenizer

    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
    grammar = grammar_from_json_schema(schema)
    prompts = random_prompts([12, 30, 8, 20], seed=11)
    plain = greedy(24)
    constrained = [SamplingParams(temperature=1.0, seed=i, max_tokens=120, grammar=grammar) for i in range(3)]
    engine = _engine(folder, page_size=4, num_pages=120)
    answers = engine.generate(prompts, [*constrained, plain])
    tokenizer = load_tokenizer(folder)
    for answer in answers[:3]:
        assert answer.error is None
        assert answer.finish_reason == "stop"
        value = json.loads(tokenizer.decode(answer.token_ids, skip_special_tokens=True))
        assert set(value) == {"n", "ok"}
        assert 0 <= value["n"] <= 99
    [alone] = _engine(folder).generate(prompts[3:], plain)
    assert answers[3].token_ids == alone.token_ids
