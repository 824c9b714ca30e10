"""Loading: checks before allocation, progress, dtypes, ties, dummy weights, and estimates."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.tiny_models import VARIANTS
from gllm.layers.torch_ops import TorchOps
from gllm.model_config_loader import load_model_config
from gllm.models.base import CausalLM
from gllm.models.loader import check_checkpoint, estimate_weight_bytes, load_model

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")


def load(path: Path, **settings: Any) -> CausalLM:
    options = {"dtype": torch.float32, "device": CPU, "ops": TorchOps()} | settings
    return load_model(path, load_model_config(path), **options)


def changed(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a model whose tensors went through `change`."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def set_to(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"),
            r"has no tensor model\.layers\.2\.mlp\.up_proj\.weight, which LlamaForCausalLM needs",
        ),
        (lambda tensors: tensors.pop("lm_head.weight"), r"has no tensor lm_head\.weight"),
        (
            set_to("model.norm.weight", torch.ones(65)),
            r"tensor model\.norm\.weight has shape \[65\], but the config says \[64\]",
        ),
        (
            set_to("model.layers.0.self_attn.k_proj.weight", torch.ones(64, 64)),
            r"k_proj\.weight has shape \[64, 64\], but the config says \[32, 64\]",
        ),
        (
            set_to("model.norm.weight", torch.ones(64, dtype=torch.int8)),
            r"tensor model\.norm\.weight has type I8, which is not supported",
        ),
    ],
)
def test_a_bad_tensor_is_named_before_anything_is_allocated(
    change: Callable[[dict[str, torch.Tensor]], object],
    message: str,
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = changed(tiny_model("llama"), tmp_path, change)
    with pytest.raises(ValueError, match=message):
        check_checkpoint(folder, load_model_config(folder))
    monkeypatch.setattr("gllm.models.loader._fill", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_extra_tensors_are_mentioned_once(
    tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extras = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2), "z.a": torch.ones(2), "z.b": torch.ones(2)}
    folder = changed(tiny_model("llama"), tmp_path, lambda tensors: tensors.update(extras))
    with caplog.at_level(logging.WARNING, logger="gllm.models"):
        load(folder)
    assert [record.getMessage() for record in caplog.records] == [
        "checkpoint has 2 tensors that the model does not use, first z.a"
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_estimate_is_what_is_loaded(variant: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(variant)
    for dtype in (torch.float32, torch.bfloat16):
        assert load(folder, dtype=dtype).weight_bytes == estimate_weight_bytes(load_model_config(folder), dtype)


def test_a_tied_head_shares_the_embedding(tiny_model: TinyModel) -> None:
    model = load(tiny_model("qwen3-tied"))
    assert model.head.weight.data is model.embedding.weight.data
    untied = load(tiny_model("qwen3"))
    assert untied.head.weight.data is not untied.embedding.weight.data


class RepackingOps(TorchOps):
    """Packs into something that is no tensor, as kernels with their own layout do."""

    def pack_linear(self, weight: torch.Tensor) -> Any:
        return (weight.clone(),)

    def linear(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        return super().linear(x, weight[0], bias)


def test_packing_leaves_the_embedding_plain(tiny_model: TinyModel) -> None:
    model = load(tiny_model("llama-tied"), ops=RepackingOps())
    plain = load(tiny_model("llama-tied"))
    tokens = torch.tensor([3, 4])
    hidden = model.embedding(tokens)
    assert torch.equal(hidden, plain.embedding(tokens))
    assert torch.equal(model.logits(hidden), plain.logits(hidden))
    # Now the head is a second copy.
    assert model.weight_bytes == plain.weight_bytes + plain.embedding.weight.data.nbytes


def test_progress_goes_from_0_to_1(tiny_model: TinyModel) -> None:
    seen: list[float] = []
    load(tiny_model("llama"), progress=seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.5
    assert seen[-1] == 1.0


def test_weights_are_converted(tiny_model: TinyModel) -> None:
    folder = tiny_model("qwen2")
    model = load(folder, dtype=torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    prefix = "model.layers.1.self_attn"
    for kind in ("weight", "bias"):
        expected = torch.cat([tensors[f"{prefix}.{part}_proj.{kind}"] for part in "qkv"]).bfloat16()
        assert torch.equal(getattr(model.layers[1].attention.qkv, kind).data, expected)


def test_dummy_weights_need_only_the_config(tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model("qwen3") / "config.json").read_bytes())
    model = load(tmp_path, load_format="dummy", seed=1)
    again = load(tmp_path, load_format="dummy", seed=1)
    other = load(tmp_path, load_format="dummy", seed=2)
    weights = [parameter.data for parameter in model.parameters()]
    assert all(torch.equal(a, b.data) for a, b in zip(weights, again.parameters(), strict=True))
    assert not torch.equal(model.head.weight.data, other.head.weight.data)
    assert torch.equal(model.norm.weight.data, torch.ones(64))
    assert model.weight_bytes == estimate_weight_bytes(model.config, torch.float32)
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        load(tmp_path)


def test_every_weight_is_declared_with_its_shard_dimension(tiny_model: TinyModel) -> None:
    model = load(tiny_model("llama-bias"))
    shards = {name: parameter.shard_dim for parameter in model.parameters() for name, _ in parameter.parts}
    folder = tiny_model("llama-bias")
    assert set(shards) == set(load_file(folder / "model.safetensors"))
    expected = {"embed_tokens.weight": 0, "lm_head.weight": 0, "norm.weight": None, "o_proj.bias": None}
    for projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        expected |= {f"{projection}.weight": 0, f"{projection}.bias": 0}
    expected |= {"o_proj.weight": 1, "down_proj.weight": 1, "down_proj.bias": None}
    for name, shard_dim in shards.items():
        ending = next(end for end in expected if name.endswith(end))
        assert shard_dim == expected[ending], name


def test_sizes_of_real_models(tmp_path: Path) -> None:
    """Parameter counts from the models' cards; the rope table (131072 x 128 float32) comes on top."""
    llama_8b = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
    }
    (tmp_path / "config.json").write_text(json.dumps(llama_8b))
    expected = 8_030_261_248 * 2 + 131072 * 128 * 4
    assert estimate_weight_bytes(load_model_config(tmp_path), torch.bfloat16) == expected
