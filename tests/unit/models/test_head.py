"""Tied LM heads: the checkpoint decides, as in transformers 5."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.tiny_models import greedy_reference, random_prompts, write_gguf
from gllm.layers.context import LayerContext
from gllm.layers.ops.torch_ops import TorchOps
from gllm.models.causal_lm import CausalLM
from gllm.models.families import load_model_config
from gllm.models.loader import load_model
from gllm.parallel.tensor_group import UnconnectedGroup

TinyModel = Callable[[str], Path]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def changed(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    for file in folder.iterdir():
        if file.suffix == ".json":
            (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def own_head(tensors: dict[str, torch.Tensor]) -> None:
    """Only the last row differs, as after training one added token."""
    tensors[HEAD] = tensors[EMBEDDING].clone()
    tensors[HEAD][-1] += 1.0


def load(folder: Path, **settings: Any) -> CausalLM:
    options = {"dtype": torch.float32, "device": torch.device("cpu"), "context": LayerContext(TorchOps())} | settings
    return load_model(folder, load_model_config(folder), **options)


@pytest.mark.parametrize("variant", ["llama-tied", "qwen3-tied"])
def test_a_different_head_is_used(
    variant: str, tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def new_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors[HEAD] = torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(1))

    folder = changed(tiny_model(variant), tmp_path, new_head)
    prompts = random_prompts([5, 20])
    with caplog.at_level(logging.INFO, logger="gllm.models"):
        answers = InProcessEngine(folder, dtype="float32").generate(prompts, greedy(8, ignore_eos=True))
    expected = greedy_reference(folder, prompts, 8, ignore_eos=True)
    assert expected != greedy_reference(tiny_model(variant), prompts, 8, ignore_eos=True)
    assert [answer.token_ids for answer in answers] == expected
    assert [record.getMessage() for record in caplog.records if record.name == "gllm.models"] == [
        "the config says tie_word_embeddings, but lm_head.weight differs from model.embed_tokens.weight in the "
        "checkpoint: the checkpoint's is used"
    ]


def test_an_equal_head_is_shared(tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tied = tiny_model("llama-tied")
    folder = changed(tied, tmp_path, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    with caplog.at_level(logging.INFO, logger="gllm.models"):
        model = load(folder)
    assert model.head.weight.data is model.embedding.weight.data
    assert model.weight_bytes == load(tied).weight_bytes
    assert not caplog.records


def test_a_shared_matrix_may_have_the_heads_name(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Libraries that store a shared tensor once keep the name that comes first in the alphabet."""
    tied = tiny_model("llama-tied")
    folder = changed(tied, tmp_path, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
    model = load(folder)
    assert model.head.weight.data is model.embedding.weight.data
    assert torch.equal(model.embedding.weight.data, load(tied).embedding.weight.data)
    last = load(folder, layers=range(2, 3))
    assert torch.equal(last.head.weight.data, model.head.weight.data)


def test_stages_and_ranks_take_their_part_of_the_own_head(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = changed(tiny_model("llama-tied"), tmp_path, own_head)
    tensors = load_file(folder / "model.safetensors")
    assert load(folder, layers=range(2)).head is None
    assert torch.equal(load(folder, layers=range(2, 3)).head.weight.data, tensors[HEAD])
    for rank, rows in ((0, slice(0, 160)), (1, slice(160, 320))):
        context = LayerContext(TorchOps(), UnconnectedGroup(2, rank))
        for layers in (range(3), range(1, 3)):
            assert torch.equal(load(folder, context=context, layers=layers).head.weight.data, tensors[HEAD][rows])
        assert torch.equal(load(folder, context=context).embedding.weight.data, tensors[EMBEDDING][rows])


def test_a_head_of_another_vocabulary_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = changed(tiny_model("llama-tied"), tmp_path, lambda tensors: tensors.update({HEAD: torch.ones(330, 64)}))
    with pytest.raises(ValueError, match=r"lm_head\.weight has shape \[330, 64\] and .* \[320, 64\]"):
        load(folder)


def test_a_gguf_with_an_own_head(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = changed(tiny_model("qwen3-tied"), tmp_path, own_head)
    path = write_gguf(folder, tmp_path / "model.gguf", "F32")
    assert not load_model_config(path).tie_word_embeddings
    assert torch.equal(load(path).head.weight.data, load_file(folder / "model.safetensors")[HEAD])
