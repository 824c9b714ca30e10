"""The errors for checkpoints that do not fit their config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gllm.layers.context import LayerContext
from gllm.layers.ops.torch_ops import TorchOps
from gllm.models.families import load_model_config
from gllm.models.loader import load_model

TinyModel = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]


def check(folder: Path, target: Path, change: Callable[[Tensors], Tensors]) -> None:
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(change(load_file(folder / "model.safetensors")), target / "model.safetensors")
    context, cpu = LayerContext(TorchOps()), torch.device("cpu")
    load_model(target, load_model_config(target), context=context, dtype=torch.float32, device=cpu)


@pytest.mark.parametrize(
    ("variant", "bias", "size"),
    [
        ("llama", "model.layers.1.self_attn.k_proj.bias", 32),
        ("llama", "model.layers.0.mlp.down_proj.bias", 64),
        ("qwen2", "model.layers.2.self_attn.o_proj.bias", 64),
        ("qwen3-moe", "model.layers.1.mlp.experts.3.up_proj.bias", 32),
        ("llama-tied", "lm_head.bias", 320),
        ("mistral", "model.norm.bias", 64),
    ],
)
def test_a_bias_that_would_be_lost_is_refused_unless_it_is_zero(
    variant: str, bias: str, size: int, tiny_model: TinyModel, tmp_path: Path
) -> None:
    check(tiny_model(variant), tmp_path, lambda tensors: tensors | {bias: torch.zeros(size)})
    one = torch.zeros(size)
    one[-1] = 0.5
    with pytest.raises(ValueError, match=f"tensor {bias} is not zero, but the config announces no such bias"):
        check(tiny_model(variant), tmp_path, lambda tensors: tensors | {bias: one})


def test_other_unused_biases_pass(tiny_model: TinyModel, tmp_path: Path) -> None:
    extras = {"score.bias": torch.ones(2), "model.layers.9.self_attn.q_proj.bias": torch.ones(64)}
    check(tiny_model("llama"), tmp_path, lambda tensors: tensors | extras)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: name.removeprefix("model."), "it has embed_tokens.weight: a model saved without its LM head"),
        (lambda name: f"language_model.{name}", "it has language_model.model.embed_tokens.weight: a model inside"),
        (lambda name: name.replace("lm_head", "head"), "if the head shares the embedding, set tie_word_embeddings"),
    ],
)
def test_the_error_names_the_tensor_that_exists_instead(
    rename: Callable[[str], str], message: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        check(tiny_model("llama"), tmp_path, lambda tensors: {rename(name): value for name, value in tensors.items()})
