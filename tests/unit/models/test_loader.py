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

from fixtures.tiny_models import VARIANTS, write_gguf
from gllm.checkpoint.source import TensorSource
from gllm.layers.context import LayerContext
from gllm.layers.ops.torch_ops import TorchOps
from gllm.models.causal_lm import CausalLM
from gllm.models.families import build_model, load_model_config
from gllm.models.loader import estimate_weight_bytes, load_model, open_checkpoint
from gllm.parallel.tensor_group import SingleRankGroup

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")


def load(path: Path, **settings: Any) -> CausalLM:
    options = {"dtype": torch.float32, "device": CPU, "context": LayerContext(TorchOps())} | settings
    return load_model(path, load_model_config(path), **options)


def changed(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a model with `change` applied to its tensors."""
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


def test_rope_tensors_of_a_gguf_file_are_no_surplus(
    tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_gguf(tiny_model("llama3"), tmp_path / "model.gguf", "F32")
    with caplog.at_level(logging.WARNING, logger="gllm.models"):
        load(path)
    assert not caplog.records


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_estimate_is_what_is_loaded(variant: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(variant)
    for dtype in (torch.float32, torch.bfloat16):
        assert load(folder, dtype=dtype).weight_bytes == estimate_weight_bytes(load_model_config(folder), dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configs_count_of_weights_is_what_is_declared(variant: str, tiny_model: TinyModel) -> None:
    """Stages are divided and the operator estimates by the config's count."""
    config = load_model_config(tiny_model(variant))
    for index in range(config.num_layers):
        model = build_model(config, LayerContext(TorchOps()), range(index, index + 1))
        # A fused tensor has several slices.
        shapes = {part.name: part.shape for parameter in model.layers[0].parameters() for part in parameter.slices}
        matrices = [shape for shape in shapes.values() if len(shape) == 2 and shape[0] > 1]
        assert config.layer_weights(index) == sum(rows * columns for rows, columns in matrices)


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
    model = load(tiny_model("llama-tied"), context=LayerContext(RepackingOps()))
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


class FakeRank(SingleRankGroup):
    """A rank of a group, without collectives."""

    def __init__(self, size: int, rank: int) -> None:
        self.size, self.rank = size, rank


@pytest.mark.parametrize(
    ("variant", "ep"),
    [
        ("llama-bias", 1),
        ("qwen2-tied", 1),
        ("qwen3", 1),
        ("glm4", 1),
        ("chatglm3", 1),
        ("mixtral", 2),
        ("qwen2-moe", 1),
        ("qwen3-moe", 2),
    ],
)
def test_ranks_and_stages_together_hold_every_weight(tiny_model: TinyModel, variant: str, ep: int) -> None:
    """Each rank reads its own slice of a divided tensor; every rank of the stage reads the other tensors."""
    folder = tiny_model(variant)
    held: dict[str, torch.Tensor] = {}
    shapes = {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
    for layers in (range(2), range(2, 3)):
        for rank in range(2):
            context = LayerContext(TorchOps(), FakeRank(2, rank), ep)
            model = build_model(load_model_config(folder), context, layers)
            for part in [part for parameter in model.parameters() for part in parameter.slices]:
                count = held.setdefault(part.name, torch.zeros(shapes[part.name]))
                count[(part.rows, part.columns)[: count.dim()]] += 1
    assert set(held) == {name for name in shapes if not name.endswith("inv_freq")}
    for name, count in held.items():
        twice = "embed" in name and variant == "qwen2-tied"  # For the first stage and for the last one's head.
        everywhere = "norm" in name or name.endswith((".gate.weight", "_gate.weight"))
        whole = 2.0 if everywhere or twice else 1.0
        assert torch.equal(count, torch.full_like(count, whole)), name


def test_a_rank_loads_its_slices(tiny_model: TinyModel) -> None:
    folder = tiny_model("llama")
    tensors = load_file(folder / "model.safetensors")
    context = LayerContext(TorchOps(), FakeRank(2, 1))
    model = load(folder, context=context, layers=range(1, 3))
    attention = model.layers[0].attention
    prefix = "model.layers.1.self_attn"
    pieces = [tensors[f"{prefix}.{part}_proj.weight"].chunk(2)[1] for part in "qkv"]
    assert torch.equal(attention.qkv.weight.data, torch.cat(pieces))
    assert torch.equal(attention.out.weight.data, tensors[f"{prefix}.o_proj.weight"].chunk(2, dim=1)[1])
    assert attention.layer == 0
    assert model.embedding is None
    assert model.weight_bytes == estimate_weight_bytes(model.config, torch.float32, context, range(1, 3))


class RecordingSource:
    """Records the names of the tensors that are read."""

    def __init__(self, source: TensorSource) -> None:
        self.source, self.tensors = source, source.tensors
        self.names: list[str] = []

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        self.names.append(name)
        self.source.read(name, out, rows, columns)


@pytest.mark.parametrize("tp", [2, 4])
def test_experts_of_other_ranks_are_never_read(tiny_model: TinyModel, tp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model("qwen3-moe")  # 8 experts, in layer 1 only
    source = RecordingSource(open_checkpoint(folder, None))
    monkeypatch.setattr("gllm.models.loader.open_checkpoint", lambda path, gguf: source)
    context = LayerContext(TorchOps(), FakeRank(tp, tp - 1), ep=2)
    model = load(folder, context=context, layers=range(1, 3))
    read = [name for name in source.names if ".experts." in name]
    assert {int(name.split(".")[5]) for name in read} == {4, 5, 6, 7}
    assert len(read) == len(set(read)) == 4 * 3
    assert not any("layers.0." in name or "embed" in name for name in source.names)
    mixture = model.layers[0].mlp
    tensors = load_file(folder / "model.safetensors")
    rows = slice(0, 32) if tp == 2 else slice(16, 32)
    prefix = "model.layers.1.mlp.experts.6"
    expected = torch.cat([tensors[f"{prefix}.{name}_proj.weight"][rows] for name in ("gate", "up")])
    assert torch.equal(mixture.experts.gate_up.data[2], expected)
    assert torch.equal(mixture.experts.down.data[2], tensors[f"{prefix}.down_proj.weight"][:, rows])
    assert model.weight_bytes == estimate_weight_bytes(model.config, torch.float32, context, range(1, 3))


def test_interleaved_rope_becomes_halves(tiny_model: TinyModel) -> None:
    """Head 3 is the second of rank 1's two: 32 dimensions, of which rope rotates the first 16."""
    folder = tiny_model("glm")
    context = LayerContext(TorchOps(), FakeRank(2, 1))
    attention = load(folder, context=context, layers=range(1)).layers[0].attention
    tensors = load_file(folder / "model.safetensors")
    for kind in ("weight", "bias"):
        theirs = tensors[f"model.layers.0.self_attn.q_proj.{kind}"][3 * 32 : 4 * 32]
        mine = getattr(attention.qkv, kind).data[32:64]
        assert torch.equal(mine[:8], theirs[0:16:2])
        assert torch.equal(mine[8:16], theirs[1:16:2])
        assert torch.equal(mine[16:], theirs[16:])
        value = getattr(attention.qkv, kind).data[-32:]
        assert torch.equal(value, tensors[f"model.layers.0.self_attn.v_proj.{kind}"][32:])


def test_sizes_of_real_models(tmp_path: Path) -> None:
    """Parameter counts from the models' cards."""
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
    expected = 8_030_261_248 * 2
    assert estimate_weight_bytes(load_model_config(tmp_path), torch.bfloat16) == expected
    shape = Path(__file__).parents[3] / "benchmarks/shapes/qwen3-30b-a3b"
    expected = 30_532_122_624 * 2
    assert estimate_weight_bytes(load_model_config(shape), torch.bfloat16) == expected
