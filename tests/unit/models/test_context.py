"""The context length that each published kind of config is served with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gllm.models.config import ModelConfig
from gllm.models.families import load_model_config

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 32768,
}
QWEN2 = BASE | {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 4096}
QWEN3 = BASE | {"architectures": ["Qwen3ForCausalLM"], "sliding_window": 4096}
MISTRAL = BASE | {"architectures": ["MistralForCausalLM"]}
MIXTRAL = BASE | {"architectures": ["MixtralForCausalLM"]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SHORT_LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def load(folder: Path, config: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(config))
    return load_model_config(folder)


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (BASE, 32768),
        (BASE | {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        (BASE | {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2}}, 8192),
        (QWEN3 | {"rope_scaling": YARN}, 131072),
        (QWEN3 | {"max_position_embeddings": 40960, "rope_scaling": YARN}, 131072),
        (QWEN3 | {"max_position_embeddings": 131072, "rope_scaling": YARN}, 131072),
        (QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, 65536),
        (BASE | {"max_position_embeddings": 131072, "rope_scaling": {"type": "yarn", "factor": 2.0}}, 262144),
        (
            BASE
            | {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
            | {"rope_scaling": {"type": "longrope", **SHORT_LONG}},
            131072,
        ),
        (MISTRAL, 4096),
        (MISTRAL | {"sliding_window": 4096}, 4096),
        (MISTRAL | {"sliding_window": None}, 32768),
        (MISTRAL | {"sliding_window": 32768}, 32768),
        (MIXTRAL, 32768),
        (MIXTRAL | {"sliding_window": 2048}, 2048),
        (QWEN2, 32768),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 4}, 32768),
        (QWEN2 | {"use_sliding_window": True}, 32768),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 2}, 4096),
        (QWEN3 | {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 512}, 512),
        (QWEN3 | {"layer_types": ["full_attention"] * 4, "use_sliding_window": True, "max_window_layers": 0}, 32768),
        (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"] * 2}, 4096),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 0, "rope_scaling": YARN}, 4096),
    ],
)
def test_the_context_that_is_served(config: dict[str, Any], context: int, tmp_path: Path) -> None:
    model = load(tmp_path, config)
    assert model.context() == context
    assert model.context(100) == 100
    assert model.context(context) == context


def test_more_than_an_attention_window_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = load(tmp_path, MISTRAL | {"sliding_window": 4096})
    assert "sliding_window is 4096" in model.context_note
    with pytest.raises(ValueError, match=r"max_model_len 8192 is more .* 4096 positions \(sliding_window is 4096"):
        model.context(8192)


def test_dual_chunk_attention_is_capped_unless_asked(tmp_path: Path) -> None:
    chunks = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
    model = load(tmp_path, QWEN2 | {"max_position_embeddings": 1010000, "dual_chunk_attention_config": chunks})
    assert model.context() == 262144
    assert "trained on 262144 positions" in model.context_note
    assert model.context(1010000) == 1010000
    with pytest.raises(ValueError, match="more than the model's 1010000 positions"):
        model.context(1010001)


def test_yarn_below_the_configs_own_positions(tmp_path: Path) -> None:
    """vLLM offers the context that the scaling was made for; transformers continues up to max_position_embeddings."""
    model = load(tmp_path, QWEN3 | {"max_position_embeddings": 131072, "rope_scaling": YARN | {"factor": 2.0}})
    assert (model.context(), model.context(131072)) == (65536, 131072)
