"""What `auto` means, and the one line that says why something cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.tiny_models import write_hf
from gllm.config import EngineConfig
from gllm.model_config import ModelConfig
from gllm.model_config_loader import load_model_config
from gllm.worker import devices, memory
from gllm.worker.build import WorkerBuilder
from gllm.worker.graphs import graph_sizes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return load_model_config(write_hf("llama", tmp_path_factory.mktemp("llama")))


def _choose(model: ModelConfig, **settings: Any) -> devices.Platform:
    return devices.choose_platform(EngineConfig(model="x", threads=1, **settings), model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda"}, "--device cuda: torch sees no CUDA device"),
        ({"attention_backend": "flashinfer"}, "flashinfer needs --device cuda"),
        ({"attention_backend": "native", "dtype": "float16"}, "use --attention-backend reference"),
    ],
)
def test_impossible_choices_name_the_flag(
    model: ModelConfig, settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=words):
        _choose(model, **settings)


def test_half_precision_weights_run_in_float32_on_a_cpu(model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert model.dtype == "float32"
    assert _choose(model).dtype is torch.float32
    monkeypatch.setattr(devices, "_has_bf16", lambda: False)
    assert _choose(model, attention_backend="reference").backend == "reference"
    assert _choose(model, dtype="bfloat16").dtype is torch.bfloat16


def test_weights_that_do_not_fit_are_refused_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_hf("llama", tmp_path)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)

    def must_not_load(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing may be allocated")

    monkeypatch.setattr("gllm.worker.build.load_model", must_not_load)
    config = EngineConfig(model=str(folder), device="cpu", threads=1)
    with pytest.raises(ValueError, match=r"weights need .* GiB but only .* is free"):
        WorkerBuilder(config, load_model_config(folder), lambda done: None)


def test_kv_pages_follow_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100 * 2**30)
    page = 2**20
    assert memory.kv_pages(EngineConfig(model="x", num_pages=7), page, 512, CPU, 0) == 7
    assert memory.kv_pages(EngineConfig(model="x", kv_cache_memory=64 * page), page, 512, CPU, 0) == 64
    # One sequence of 512 tokens takes 32 pages; 256 of them would take 8 GiB: the default stops at 512 MiB.
    assert memory.kv_pages(EngineConfig(model="x"), page, 512, CPU, 0) == 512
    assert memory.kv_pages(EngineConfig(model="x", max_num_seqs=2), page, 512, CPU, 0) == 64
    # A single long sequence must fit whatever the default says.
    assert memory.kv_pages(EngineConfig(model="x"), page, 32768, CPU, 0) == 2048
    with pytest.raises(ValueError, match="raise --kv-cache-memory"):
        memory.kv_pages(EngineConfig(model="x", kv_cache_memory=page), page, 512, CPU, 0)


@pytest.mark.parametrize("most", [1, 3, 8, 100, 256, 300, 512, 1024])
def test_graph_sizes_cover_every_batch_up_to_their_last(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == min(most, 512)
    assert sizes[0] == 1
