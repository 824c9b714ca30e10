"""The meaning of `auto`, and the one-line errors of impossible choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.inprocess import InProcessEngine
from fixtures.tiny_models import write_hf
from gllm.config import EngineConfig
from gllm.models.config import ModelConfig
from gllm.models.families import load_model_config
from gllm.worker import devices, memory
from gllm.worker.build import WorkerBuilder
from gllm.worker.cuda_graphs import graph_sizes
from gllm.worker.memory import free_host_bytes

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


@pytest.mark.parametrize(
    ("settings", "ranks", "message"),
    [
        ({"kv_cache_memory": 100 << 30}, 1, "--kv-cache-memory: 100.0 GiB asked for, 15.0 GiB available"),
        ({"kv_cache_memory": 6 << 30}, 2, "--kv-cache-memory: 12.0 GiB asked for of 2 ranks, 10.0 GiB available"),
        ({"num_pages": 20000}, 1, "--num-pages 20000: 19.5 GiB asked for, 15.0 GiB available"),
        ({"num_pages": 20000, "kv_cache_memory": 1 << 20}, 1, "--num-pages 20000: 19.5 GiB asked for"),
        ({}, 5, "weights of 5 ranks need 25.0 GiB but only 20.0 GiB"),
    ],
)
def test_a_kv_cache_that_does_not_fit_is_refused_in_one_line(
    settings: dict[str, int], ranks: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 20 << 30)
    needs = [memory.Needs(weights=5 << 30, page=1 << 20)] * ranks
    with pytest.raises(ValueError, match=message) as caught:
        memory.check_fits(EngineConfig(model="x", **settings), needs, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"kv_cache_memory": 15 << 30}, {"num_pages": 15 * 1024}])
def test_a_kv_cache_that_fits_is_taken(settings: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 20 << 30)
    memory.check_fits(EngineConfig(model="x", **settings), [memory.Needs(weights=5 << 30, page=1 << 20)], CPU)


def test_ranks_of_a_node_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two stages asks for less than the free memory, both together for more."""
    for name, value in (("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 3 << 30)
    monkeypatch.setattr("gllm.worker.build.join_world", lambda *_, **__: pytest.fail("joined"))
    folder = write_hf("llama", tmp_path)
    config = EngineConfig(model=str(folder), device="cpu", threads=1, pp=2, kv_cache_memory=2 << 30)
    with pytest.raises(ValueError, match=r"4\.0 GiB asked for of 2 ranks, 3\.0 GiB available"):
        WorkerBuilder(config, load_model_config(folder), rank=1)


def test_the_rope_table_is_as_long_as_the_served_context(tmp_path: Path) -> None:
    folder = write_hf("mistral", tmp_path, max_position_embeddings=1_024_000)
    engine = InProcessEngine(folder, dtype="float32", max_model_len=100)
    assert len(engine.runner.model.rotary.cos_sin) == 100
    # Without a limit it is the pool's size that counts: 20 pages of 16 tokens.
    engine = InProcessEngine(folder, dtype="float32", num_pages=20)
    assert len(engine.runner.model.rotary.cos_sin) == 320


def test_free_memory_is_bounded_by_the_parent_cgroups(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    group = tmp_path / "cgroup"
    group.mkdir()
    assert free_host_bytes(meminfo, group) == 8000000 * 1024
    (group / "memory.max").write_text("max\n")
    assert free_host_bytes(meminfo, group) == 8000000 * 1024
    (group / "memory.max").write_text("1000000\n")
    assert free_host_bytes(meminfo, group) == 8000000 * 1024
    (group / "memory.current").write_text("700000\n")
    # Cached files are freed when memory is needed.
    (group / "memory.stat").write_text("anon 400000\ninactive_file 200000\nactive_file 50000\n")
    assert free_host_bytes(meminfo, group) == 550000


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


def test_a_lack_of_memory_for_graphs_names_the_flags() -> None:
    with (
        pytest.raises(RuntimeError, match=r"lower --gpu-memory-utilization .* --enforce-eager"),
        memory.room_for_graphs(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match=r"^an illegal address$"), memory.room_for_graphs():
        raise RuntimeError("an illegal address")
