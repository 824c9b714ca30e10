"""Steps launched as a CPU graph have the bits of eager ones, and what cannot be captured runs eagerly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fixtures.inprocess import InProcessEngine, greedy
from fixtures.mini_runner import cpu_pool
from fixtures.tiny_models import VOCAB_SIZE, random_prompts, write_hf
from gllm.layers.attention_backends.backend import AttentionBatch
from gllm.layers.context import LayerContext
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.models.families import load_model_config
from gllm.models.loader import load_model
from gllm_kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason="needs the C++ kernels")
if cpu.available():
    from gllm.layers.attention_backends.native import NativeAttention
    from gllm.layers.ops.native_experts import NativeExperts
    from gllm.layers.ops.native_ops import NativeOps
    from gllm.worker.cpu_graph import Capturing, CpuGraph, capture_steps

MAX_ROWS = 60
DTYPES = [torch.float32, torch.bfloat16]
DENSE = ["llama", "llama-bias", "mistral", "qwen2", "qwen3", "glm", "glm4", "chatglm3"]


class Stage:
    """Some layers of a tiny model over a pool of random keys and values."""

    def __init__(self, folder: Path, layers: range, dtype: torch.dtype, page_size: int = 16) -> None:
        config = load_model_config(str(folder))
        device, ops = torch.device("cpu"), NativeOps()
        self.dtype = dtype
        self.model: CausalLM = load_model(
            str(folder),
            config,
            context=LayerContext(ops, experts=NativeExperts(ops)),
            dtype=dtype,
            device=device,
            layers=layers,
        )
        self.attention = NativeAttention(
            cpu_pool(config, page_size=page_size, dtype=dtype, num_layers=len(layers)), self.model.attention_specs
        )
        pages = -(-config.max_position // page_size)
        self.tables = np.arange((MAX_ROWS + 2) * pages, dtype=np.int32).reshape(MAX_ROWS + 2, pages)
        self.attention.allocate(self.tables.size)
        self.attention.pool.view(dtype).normal_()
        self.rng = np.random.default_rng(0)

    def inputs(self, n: int) -> torch.Tensor:
        if self.model.embedding is None:
            return torch.randn(n, self.model.config.hidden_size).to(self.dtype)
        return torch.from_numpy(self.rng.integers(0, VOCAB_SIZE, n))

    def decodes(self, n: int) -> AttentionBatch:
        kv_lens = self.rng.integers(1, self.model.config.max_position, n, dtype=np.int32)
        return AttentionBatch(n, np.ones(n, np.int32), kv_lens, self.tables[self.rng.permutation(MAX_ROWS)[:n]])

    def mixed(self, n: int) -> AttentionBatch:
        """n decodes and two chunks of prompts, the second of which is far into its prompt."""
        decodes = self.decodes(n)
        tables = np.concatenate((decodes.block_tables, self.tables[-2:]))
        chunks, ends = np.array([7, 5], np.int32), np.array([7, 25], np.int32)
        return AttentionBatch(
            n, np.concatenate((decodes.query_lens, chunks)), np.concatenate((decodes.kv_lens, ends)), tables
        )

    def eager(
        self,
        batch: AttentionBatch,
        inputs: torch.Tensor,
        positions: torch.Tensor,
        indices: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.model(inputs.clone(), Step(positions, self.attention.prepare(batch), indices))

    def prompt(self) -> None:
        """A step of more tokens than the graph has rows."""
        n = MAX_ROWS + 13
        batch = AttentionBatch(0, np.array([n], np.int32), np.array([n], np.int32), self.tables[-1:])
        self.eager(batch, self.inputs(n), torch.arange(n))


def positions_of(batch: AttentionBatch) -> torch.Tensor:
    ends = zip(batch.kv_lens, batch.query_lens, strict=True)
    return torch.from_numpy(np.concatenate([np.arange(end - size, end, dtype=np.int64) for end, size in ends]))


def _check_every_size(stage: Stage) -> None:
    graph = CpuGraph(stage.model, stage.attention, MAX_ROWS, stage.dtype)
    for n in [MAX_ROWS, *range(1, 21), 27, 50]:
        batch, inputs = stage.decodes(n), stage.inputs(n)
        assert graph.fits(batch)
        positions = positions_of(batch)
        want = stage.eager(batch, inputs, positions)
        if n % 5 == 0:
            stage.prompt()
        got = graph.launch(inputs, Step(positions, graph.prepare(batch)))
        assert torch.equal(got, want), n
    assert not graph.fits(stage.decodes(0))


def _check_mixed(stage: Stage) -> None:
    graph = CpuGraph(stage.model, stage.attention, MAX_ROWS, stage.dtype)
    for n in (0, 1, 6, 30, MAX_ROWS - 12):
        batch, inputs = stage.mixed(n), stage.inputs(n + 12)
        assert graph.fits(batch)
        positions = positions_of(batch)
        for indices in (None, torch.arange(n), torch.tensor([*range(n), n + 11]), torch.zeros(1, dtype=torch.int64)):
            if indices is not None and (len(indices) == 0 or stage.model.head is None):  # only the last stage has them
                continue
            want = stage.eager(batch, inputs, positions, indices)
            got = graph.launch(inputs, Step(positions, graph.prepare(batch), indices))
            assert torch.equal(got, want), (n, indices)
    assert not graph.fits(stage.mixed(MAX_ROWS - 11))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", DENSE)
@torch.inference_mode()
def test_graph_has_the_bits_of_the_eager_pass(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    stage = Stage(write_hf(variant, tmp_path), range(3), dtype)
    _check_every_size(stage)
    _check_mixed(stage)


@pytest.mark.parametrize("page_size", [1, 8, 64])
@pytest.mark.parametrize("layers", [range(1), range(1, 2), range(1, 3)], ids=["first", "middle", "last"])
@torch.inference_mode()
def test_graph_of_a_stage(layers: range, page_size: int, tmp_path: Path) -> None:
    stage = Stage(write_hf("qwen3", tmp_path), layers, torch.bfloat16, page_size)
    _check_every_size(stage)
    _check_mixed(stage)


@pytest.mark.parametrize("variant", ["mixtral", "qwen2-moe", "qwen3-moe"])
def test_experts_are_not_captured(variant: str, tmp_path: Path) -> None:
    stage = Stage(write_hf(variant, tmp_path), range(3), torch.float32)
    assert capture_steps(stage.model, stage.attention, MAX_ROWS, torch.float32) is None


@pytest.mark.parametrize("variant", ["llama", "mixtral"])
def test_tokens_and_logprobs_are_those_of_eager_steps(variant: str, tmp_path: Path) -> None:
    folder = write_hf(variant, tmp_path)
    answers: list[Any] = []
    for eager in (False, True):
        engine = InProcessEngine(folder, device="cpu", max_prefill_tokens=24, max_num_seqs=4, enforce_eager=eager)
        assert bool(engine.runner.graphs) == (not eager and variant == "llama")
        prompts = random_prompts([1, 17, 33, 70, 5, 40])
        answers.append([(a.token_ids, a.logprobs) for a in engine.generate(prompts, greedy(12, logprobs=2))])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + 1,
        lambda x: x.add_(1),
        lambda x: x.zero_(),
        lambda x: x[:, :2].reshape(-1),
        lambda x: x[:, :2].contiguous(),
        lambda x: x.to(torch.float64),
        lambda x: x[torch.tensor([0])],
        lambda x: x.sum().item(),
        lambda x: torch.zeros(2),
        lambda x: torch.empty_like(x).copy_(x),
    ],
)
@torch.inference_mode()
def test_torch_may_not_compute_while_capturing(compute: Any) -> None:
    x = torch.ones(4, 4)
    with Capturing(), pytest.raises(RuntimeError, match="no kernel"):
        compute(x)
    assert x.equal(torch.ones(4, 4))  # what writes in place was refused before it ran


def test_buffers_are_shared_only_after_their_last_view_is_gone() -> None:
    with Capturing() as capturing:
        first = torch.empty((2, 8), dtype=torch.float32)
        view = first.view(16)[4:]
        del first
        second = torch.empty((2, 8), dtype=torch.float32)
        assert second.data_ptr() != view.data_ptr() - 16
        address = view.data_ptr() - 16
        del view
        third = torch.empty((2, 8), dtype=torch.float32)
        assert third.data_ptr() == address
    assert len(capturing._blocks) == 2


@torch.inference_mode()
def test_a_graph_refuses_what_it_was_not_captured_for(tmp_path: Path) -> None:
    stage = Stage(write_hf("llama", tmp_path), range(3), torch.float32)
    graph = CpuGraph(stage.model, stage.attention, 4, torch.float32)
    batch = stage.decodes(5)
    assert not graph.fits(batch)
    native = cpu.native
    assert native is not None
    with pytest.raises(ValueError, match="launch with 5 rows of a graph of 4"):
        native.launch(graph._graphs[0], 5, graph.prepare(batch).work_list)
    with pytest.raises(ValueError, match="a work list of 2"):
        native.launch(graph._graphs[0], 3, graph.prepare(stage.decodes(2)).work_list)
    with pytest.raises(ValueError, match="incorrect name"):
        native.launch(graph._graphs[0], 3, graph._graphs[0])
    ops = NativeOps()
    with pytest.raises(RuntimeError, match="a kernel takes 3 of the graph's 4 rows"):
        native.capture(lambda: ops.rms_norm(torch.ones(3, 8), torch.ones(8), 1e-5), 4)
    # A capture that failed is over: kernels run again.
    assert ops.rms_norm(torch.ones(3, 8), torch.ones(8), 0.0).equal(torch.ones(3, 8))
