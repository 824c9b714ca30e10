"""Logits and greedy tokens of every family against transformers, in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.mini_runner import MiniRunner, cpu_pool
from fixtures.tiny_models import VARIANTS, greedy_reference, load_reference, random_prompts, write_gguf, write_hf
from gllm.hub.default_model import default_model_path
from gllm.layers.attention_backends.reference import ReferenceAttention
from gllm.layers.context import LayerContext
from gllm.layers.ops.torch_ops import TorchOps
from gllm.models.families import load_model_config
from gllm.models.loader import load_model

CPU = torch.device("cpu")
TinyModel = Callable[[str], Path]


def make_runner(
    path: Path, *, page_size: int = 8, num_pages: int = 64, dtype: torch.dtype = torch.float32
) -> MiniRunner:
    config = load_model_config(path)
    model = load_model(path, config, dtype=dtype, device=CPU, context=LayerContext(TorchOps()))
    shape = cpu_pool(config, page_size=page_size, dtype=dtype)
    return MiniRunner(model, ReferenceAttention(shape, model.attention_specs), page_size=page_size, num_pages=num_pages)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(variant: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(variant)
    (prompt,) = random_prompts([90])
    with torch.inference_mode():
        expected = load_reference(folder)(torch.tensor([prompt])).logits[0]
    # GLM's scores are summed over the dimensions in another order.
    atol = 5e-5 if "glm" in variant else 1e-5
    torch.testing.assert_close(make_runner(folder).prompt_logits(prompt), expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_are_those_of_transformers(variant: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(variant)
    prompts = random_prompts([1, 7, 33, 8, 60], seed=1)
    expected = greedy_reference(folder, prompts, 12, ignore_eos=True)
    assert len({tuple(tokens) for tokens in expected}) == len(prompts)
    assert make_runner(folder).generate(prompts, 12, chunk=16) == expected


@pytest.mark.parametrize(("page_size", "chunk"), [(1, 5), (16, 1), (32, 1000)])
def test_neither_pages_nor_chunks_change_tokens(page_size: int, chunk: int, tiny_model: TinyModel) -> None:
    folder = tiny_model("qwen3")
    prompts = random_prompts([20, 3, 41], seed=2)
    runner = make_runner(folder, page_size=page_size, num_pages=160)
    assert runner.generate(prompts, 8, chunk=chunk) == greedy_reference(folder, prompts, 8, ignore_eos=True)


@pytest.mark.parametrize(
    "variant",
    ["llama", "llama-bias", "llama3", "deepseek-coder", "qwen2-tied", "qwen3", "glm", "glm4", "chatglm3", "glm4-9b"],
)
def test_gguf_is_the_same_model(variant: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    check_gguf(tiny_model(variant), tmp_path)


@pytest.mark.parametrize(
    ("variant", "settings"),
    [("mixtral", {}), ("qwen2-moe", {"mlp_only_layers": []}), ("qwen3-moe", {"decoder_sparse_step": 1})],
)
def test_gguf_of_experts_is_the_same_model(variant: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """llama.cpp's converter knows no layers without experts in these families."""
    check_gguf(write_hf(variant, tmp_path, **settings), tmp_path)


def check_gguf(folder: Path, tmp_path: Path) -> None:
    path = write_gguf(folder, tmp_path / "model.gguf", "F32")
    (prompt,) = random_prompts([100], seed=3)
    expected = make_runner(folder).prompt_logits(prompt)
    torch.testing.assert_close(make_runner(path).prompt_logits(prompt), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["mistral", "mixtral"])
def test_within_a_sliding_window_tokens_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    """To the last position of the window, which is all of the context."""
    folder = write_hf(variant, tmp_path, sliding_window=64)
    engine = InProcessEngine(folder, dtype="float32")
    assert engine.max_model_len == 64
    prompts = random_prompts([1, 40, 52], seed=5)
    answers = engine.generate(prompts, greedy(64, ignore_eos=True))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(prompt) + len(answer.token_ids) == 64
        assert [answer.token_ids] == greedy_reference(folder, [prompt], 64 - len(prompt), ignore_eos=True)


def test_sharded_folder_is_the_same_model(tiny_model: TinyModel, tmp_path: Path) -> None:
    write_hf("llama", tmp_path, sharded=True)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    (prompt,) = random_prompts([10])
    assert torch.equal(
        make_runner(tmp_path).prompt_logits(prompt), make_runner(tiny_model("llama")).prompt_logits(prompt)
    )


def test_bfloat16_is_as_exact_as_transformers(tiny_model: TinyModel) -> None:
    folder = tiny_model("llama")
    (prompt,) = random_prompts([40], seed=4)
    model = load_reference(folder)
    with torch.inference_mode():
        exact = model(torch.tensor([prompt])).logits[0]
        theirs = model.bfloat16()(torch.tensor([prompt])).logits[0].float()
    ours = make_runner(folder, dtype=torch.bfloat16).prompt_logits(prompt)
    assert (ours - exact).abs().mean() < 1.1 * (theirs - exact).abs().mean()


def test_smollm2_is_that_of_transformers() -> None:
    path = default_model_path()
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    # <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n
    prompt = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0]
        tokens = reference.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
    runner = make_runner(path)
    torch.testing.assert_close(runner.prompt_logits(prompt), expected, rtol=1e-3, atol=2e-3)
    assert runner.generate([prompt], len(tokens), chunk=7) == [tokens.tolist()]
