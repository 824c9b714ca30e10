"""Memory of loading: a rank reads its own layers and slices, and never holds more than its share and one tensor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.tiny_models import write_hf
from gllm_kernels import cpu

MIB = 2**20
SLACK = 12 * MIB
"""Memory for the reader's buffer and for partly used huge pages. It does not grow with the model."""
PROMPT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""With these settings malloc gives freed memory back at once, so that the test measures only what loading holds. By
default malloc raises both thresholds while it runs, and keeps up to 20 MiB of freed memory, which varies by run."""

LOADER = """
import json, sys
from pathlib import Path
import torch
from gllm.config import EngineConfig
from gllm.layers.context import LayerContext
from gllm.models.families import load_model_config
from gllm.models.loader import load_model
from gllm.parallel.tensor_group import SingleRankGroup
from gllm.worker.devices import choose_platform

folder, backend, first, last, tp, rank, ep = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
config = load_model_config(folder)
settings = EngineConfig(model=folder, device="cpu", dtype="float32", attention_backend=backend, threads=1)
platform = choose_platform(settings, config)
group = SingleRankGroup()
group.size, group.rank = tp, rank


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


torch.randn(256, 256) @ torch.randn(256, 256)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
context = LayerContext(platform.ops, group, ep, platform.experts)
model = load_model(folder, config, context=context, dtype=torch.float32, device=torch.device("cpu"),
                   layers=range(first, last))
print(json.dumps({"weights": model.weight_bytes, "peak": status("VmHWM") - before}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers of 16 MiB; the largest weight, gate and up in one, has 8 MiB."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    return write_hf("llama", tmp_path_factory.mktemp("wide"), **sizes)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers of 12 MiB of experts, each of 1 MiB at most, and 3 MiB of attention."""
    sizes = {"hidden_size": 512, "moe_intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8}
    settings = {"head_dim": 64, "decoder_sparse_step": 1}
    return write_hf("qwen3-moe", tmp_path_factory.mktemp("experts"), **sizes, **settings)


BACKENDS = ["reference", *(["native"] if cpu.available() else [])]


def load(folder: Path, backend: str, layers: tuple[int, int], tp: int, rank: int, ep: int) -> dict[str, int]:
    command = [sys.executable, "-c", LOADER, str(folder), backend, *map(str, (*layers, tp, rank, ep))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | PROMPT)
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("layers", "tp", "rank"), [((2, 4), 1, 0), ((0, 8), 2, 1), ((4, 8), 2, 0)])
def test_peak_memory_is_the_share_and_one_tensor(
    folder: Path, backend: str, layers: tuple[int, int], tp: int, rank: int
) -> None:
    answer = load(folder, backend, layers, tp, rank, ep=1)
    share = (folder / "model.safetensors").stat().st_size * (layers[1] - layers[0]) / 8 / tp
    assert answer["weights"] < share * 1.1 + MIB
    assert answer["peak"] < answer["weights"] + 8 * MIB / tp + SLACK


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("tp", "ep"), [(2, 2), (2, 1), (4, 2)])
def test_of_experts_too(experts: Path, backend: str, tp: int, ep: int) -> None:
    """Experts are loaded one by one, whether the rank has whole experts or a slice of each."""
    answer = load(experts, backend, (0, 8), tp, tp - 1, ep)
    share = (experts / "model.safetensors").stat().st_size / tp
    # Key-value heads are two, so with four ranks two of them hold each.
    assert answer["weights"] < share * 1.1 + MIB + (tp == 4) * 2 * MIB
    assert answer["peak"] < answer["weights"] + MIB + SLACK
