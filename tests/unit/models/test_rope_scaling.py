"""Every rope scaling against transformers: tables, logits and tokens, within and beyond the original context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.mini_runner import MiniRunner, cpu_pool
from fixtures.tiny_models import greedy_reference, load_reference, random_prompts, write_gguf, write_hf
from gllm.layers.attention_backends.reference import ReferenceAttention
from gllm.layers.context import LayerContext
from gllm.layers.ops.torch_ops import TorchOps
from gllm.layers.rotary import Rotary
from gllm.models.families import load_model_config
from gllm.models.loader import load_model

CPU = torch.device("cpu")
ORIGINAL = 64
SHORT, LONG = [1.0 + index / 8 for index in range(8)], [2.0 + index for index in range(8)]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LONGROPE = {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": ORIGINAL}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn": YARN,
    "yarn, R1-0528": {**YARN, "attn_factor": 0.8782488562869419},
    "yarn, own attention_factor": {**YARN, "attention_factor": 0.7, "beta_fast": 8, "beta_slow": 0},
    "yarn, mscale": {**YARN, "mscale": 1.2, "mscale_all_dim": 0.8},
    "yarn, not truncated": {**YARN, "truncate": False, "beta_fast": 20.0},
    "longrope": {"type": "longrope", **LONGROPE},
    "longrope with factor": {"type": "longrope", **LONGROPE, "factor": 8.0},
    "longrope with attention_factor": {"type": "longrope", **LONGROPE, "attention_factor": 1.5},
}


def write(folder: Path, scaling: dict[str, Any], variant: str = "llama", **config: Any) -> Path:
    """A model of 256 positions whose config.json has the scaling in the older key."""
    write_hf(variant, folder, max_position_embeddings=256)
    path = folder / "config.json"
    values = json.loads(path.read_bytes())
    values.pop("rope_parameters")
    path.write_text(json.dumps(values | {"rope_theta": 10000.0, "rope_scaling": scaling} | config))
    return folder


def prompt_logits(folder: Path, prompt: list[int], max_model_len: int, rope_start: int = 0) -> torch.Tensor:
    config = load_model_config(folder)
    context = LayerContext(TorchOps())
    model = load_model(folder, config, dtype=torch.float32, device=CPU, context=context, max_model_len=max_model_len)
    attention = ReferenceAttention(cpu_pool(config, page_size=8, dtype=torch.float32), model.attention_specs)
    runner = MiniRunner(model, attention, page_size=8, num_pages=64, rope_start=rope_start)
    return runner.prompt_logits(prompt)


def reference_logits(folder: Path, prompt: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = load_reference(folder)(torch.tensor([prompt])).logits[0]
    return logits


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("length", [40, 200])
def test_logits_are_those_of_transformers(name: str, length: int, tmp_path: Path) -> None:
    folder = write(tmp_path, SCALINGS[name])
    (prompt,) = random_prompts([length])
    start = 256 if name.startswith("longrope") and length > ORIGINAL else 0
    actual = prompt_logits(folder, prompt, 256, start)
    torch.testing.assert_close(actual, reference_logits(folder, prompt), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "longrope"])
def test_tokens_are_those_of_transformers(name: str, variant: str, tmp_path: Path) -> None:
    """Short and long sequences beside each other, on the real scheduler with its prefix cache."""
    scaling = dict(SCALINGS[name])
    if variant == "qwen3" and name == "longrope":  # its heads are twice as wide
        scaling |= {"short_factor": [*SHORT, *SHORT], "long_factor": [*LONG, *LONG]}
    folder = write(tmp_path, scaling, variant)
    (long,) = random_prompts([150], seed=1)
    # The short prompts begin like the long one, but with longrope their cached keys differ from its keys.
    # Some short prompts have answers that pass the original context.
    prompts = [long[:33], long, long[:20], long[:100], [*long[:32], 7], long[:60], long[:64], long[:65]]
    expected = greedy_reference(folder, prompts, 12, ignore_eos=True)
    engine = InProcessEngine(folder, dtype="float32", max_model_len=256)
    answers = engine.generate(prompts[:2], greedy(12, ignore_eos=True))
    answers += engine.generate(prompts[2:], greedy(12, ignore_eos=True))
    assert [answer.token_ids for answer in answers] == expected
    assert answers[3].num_cached_tokens >= 80
    assert answers[4].num_cached_tokens == 32


def test_dynamic_answers_to_short_prompts_are_those_of_transformers(tmp_path: Path) -> None:
    folder = write(tmp_path, {"type": "dynamic", "factor": 2.0}, max_position_embeddings=ORIGINAL)
    assert load_model_config(folder).context() == 2 * ORIGINAL
    (long,) = random_prompts([100], seed=2)
    engine = InProcessEngine(folder, dtype="float32", max_model_len=128)
    # transformers keeps the frequencies of the last sequence until one below the original length follows.
    prompts = [long[:64], long[:20], long[:49]]
    engine.generate([long], greedy(4, ignore_eos=True))
    answers = engine.generate(prompts, greedy(40, ignore_eos=True))
    assert [answer.token_ids for answer in answers] == greedy_reference(folder, prompts, 40, ignore_eos=True)
    assert answers[0].num_cached_tokens == 0  # the long prompt begins with the same tokens


def test_dynamic_long_prompts_are_stretched_for_the_whole_context(tmp_path: Path) -> None:
    """transformers stretches for the length of the prompt. If that is the whole context, both give the same logits."""
    folder = write(tmp_path, {"type": "dynamic", "factor": 2.0}, max_position_embeddings=ORIGINAL)
    (prompt,) = random_prompts([128], seed=3)
    actual = prompt_logits(folder, prompt, 128, 128)
    torch.testing.assert_close(actual, reference_logits(folder, prompt), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("variant", ["llama", "qwen2"])
@pytest.mark.parametrize("scaling", [YARN, {"rope_type": "longrope", **LONGROPE, "attention_factor": 1.25}])
def test_gguf_is_the_same_model(scaling: dict[str, Any], variant: str, tmp_path: Path) -> None:
    rope = {**scaling, "rope_theta": 10000.0}
    folder = write_hf(variant, tmp_path, max_position_embeddings=256, rope_parameters=rope)
    path = write_gguf(folder, tmp_path / "model.gguf", "F32")
    assert load_model_config(path).context() == 256
    prompts = random_prompts([30, 150], seed=4)
    answers = InProcessEngine(path, dtype="float32", max_model_len=256).generate(prompts, greedy(12, ignore_eos=True))
    assert [answer.token_ids for answer in answers] == greedy_reference(folder, prompts, 12, ignore_eos=True)


@pytest.mark.parametrize(("context", "rows"), [(ORIGINAL, ORIGINAL), (ORIGINAL + 1, 2 * ORIGINAL + 2), (10, 10)])
def test_the_table_has_rows_for_long_sequences_only_where_there_are_some(
    context: int, rows: int, tmp_path: Path
) -> None:
    rope = load_model_config(write(tmp_path, SCALINGS["longrope"])).rope
    rotary = Rotary(rope, 16)
    rotary.allocate(context, CPU)
    assert rotary.cos_sin.shape == (rows, 16)
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            max_position_embeddings=256,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **LONGROPE},
        )
    )
    for length, first in ((min(context, ORIGINAL), 0), (context, rows - context)):
        cos, sin = theirs(torch.zeros(1), torch.arange(length)[None])
        assert torch.equal(rotary.cos_sin[first : first + length], torch.cat((cos[0, :, :8], sin[0, :, :8]), dim=1))
