"""Builds a worker: model, memory budget, runner, warm-up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from gllm.config import EngineConfig
from gllm.layers.attention_backends.backend import AttentionBackend, AttentionBatch, GraphAttention, KVShape
from gllm.layers.context import LayerContext
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.models.config import ModelConfig
from gllm.models.loader import estimate_weight_bytes, load_model
from gllm.parallel.layout import RankCoords, check_parallelism, kv_head_slice, split_layers
from gllm.parallel.tensor_group import UnconnectedGroup
from gllm.parallel.world import World, join_world, ranks_beside, ranks_per_device
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import Configure, NewSequence, SchedulerOutput
from gllm.worker import memory
from gllm.worker.captured_graph import CapturedGraph
from gllm.worker.cuda_graphs import CudaGraphs
from gllm.worker.devices import Platform, choose_platform
from gllm.worker.last_stage import LastStage
from gllm.worker.piecewise_graphs import PiecewiseGraphs
from gllm.worker.runner import ModelRunner
from gllm.worker.sampling.grammar import GrammarStore
from gllm.worker.sampling.sampler import Sampler
from gllm.worker.sampling.state import SamplingState
from gllm.worker.slots import SlotTable


class WorkerBuilder:
    """Joins the other ranks, loads this rank's part of the model, counts the KV pages that fit, makes the runner."""

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        progress: Callable[[float], None] = lambda done: None,
        rank: int = 0,
    ) -> None:
        """Raises ValueError, with a message of one line, for errors that a user can fix."""
        self.config = config
        self.model_config = model_config
        check_parallelism(
            model_config, pp=config.pp, tp=config.tp, ep=config.ep, assigned_layers=config.assigned_layers
        )
        self.coords = RankCoords(config.pp, config.tp, rank)
        self.platform: Platform = choose_platform(config, model_config)
        platform = self.platform
        if platform.device.type == "cuda":
            torch.cuda.set_device(platform.device)
        stages = split_layers(model_config, config.pp, config.assigned_layers)
        layers = stages[self.coords.stage]
        self.shape = self._shape(layers)
        # No rank loads anything before all have joined: the memory that is free now is for all of them together.
        memory.check_fits(config, self._needs(stages), platform.device)
        self.world: World = join_world(
            self.coords,
            hidden_size=model_config.hidden_size,
            most_tokens=self._max_tokens,
            most_sampled=config.max_num_seqs,
            dtype=platform.dtype,
            device=platform.device,
        )
        context = LayerContext(platform.ops, self.world.group, config.ep, platform.experts)
        self.model: CausalLM = load_model(
            config.model,
            model_config,
            context=context,
            dtype=platform.dtype,
            device=platform.device,
            layers=layers,
            load_format=config.load_format,
            seed=config.seed,
            progress=progress,
            # One row of the rope table is enough until `runner` allocates it for the context that is served.
            max_model_len=1,
        )
        self.attention: AttentionBackend = platform.make_attention(self.shape, self.model.attention_specs)

    def _shape(self, layers: range) -> KVShape:
        """Return the shape of the KV pool of a rank with these layers."""
        kv_heads = kv_head_slice(self.model_config.num_kv_heads, self.config.tp, self.coords.tp_rank)
        return KVShape(
            num_layers=len(layers),
            num_heads=self.model_config.num_heads // self.config.tp,
            num_kv_heads=kv_heads.stop - kv_heads.start,
            head_dim=self.model_config.head_dim,
            page_size=self.config.page_size,
            dtype=self.platform.dtype,
            device=self.platform.device,
        )

    def _needs(self, stages: list[range]) -> list[memory.Needs]:
        """Return the memory needs of each rank that shares this rank's memory."""
        config, platform = self.config, self.platform
        group = UnconnectedGroup(config.tp, self.coords.tp_rank)
        context = LayerContext(platform.ops, group, config.ep, platform.experts)
        # All ranks of a stage need the same amount.
        beside = ranks_beside(self.coords.rank, platform.device)
        of_stage = {
            stage: memory.Needs(
                estimate_weight_bytes(self.model_config, platform.dtype, context, stages[stage]),
                self._shape(stages[stage]).page_bytes,
            )
            for stage in {rank // config.tp for rank in beside}
        }
        return [of_stage[rank // config.tp] for rank in beside]

    def capacity(self) -> int:
        """Measure the largest forward pass, and return the number of KV pages that fit the memory budget."""
        context = self.model_config.context(self.config.max_model_len)
        device = self.platform.device
        peak = self._measure_peak() if device.type == "cuda" else 0
        peak += self.model.rotary.num_bytes(context)
        sharers = ranks_per_device(device) if device.type == "cuda" else len(ranks_beside(self.coords.rank, device))
        return memory.kv_pages(self.config, self.shape.page_bytes, context, device, peak, sharers)

    @property
    def _max_tokens(self) -> int:
        """Maximum number of tokens of a step: chunks of prompts, and one token of each decode."""
        return self.config.max_prefill_tokens + self.config.max_num_seqs

    @torch.inference_mode()
    def _measure_peak(self) -> int:
        """Return the peak bytes, besides weights and KV, of a pass of `_max_tokens` with max_num_seqs sampled rows."""
        tokens, page_size = self._max_tokens, self.config.page_size
        device = self.platform.device
        self.attention.allocate(1)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        # All rows share page 0: the result is meaningless, but a real step takes the same memory.
        rows = -(-tokens // page_size)
        batch = AttentionBatch(
            num_decode_rows=0,
            query_lens=np.full(rows, page_size, np.int32),
            kv_lens=np.full(rows, page_size, np.int32),
            block_tables=np.zeros((rows, 1), np.int32),
        )
        zeros = torch.zeros(rows * page_size, dtype=torch.int64, device=device)
        inputs = zeros
        if not self.coords.is_first:
            inputs = torch.zeros(len(zeros), self.model_config.hidden_size, dtype=self.platform.dtype, device=device)
        hidden = self.model(inputs, Step(zeros, self.attention.prepare(batch)))
        if self.coords.is_last:
            logits = self.model.logits(hidden[: self.config.max_num_seqs])
            torch.softmax(logits, dim=-1).cumsum(-1, dtype=torch.float64)
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.empty_cache()
        return peak

    def runner(self, configure: Configure) -> ModelRunner:
        """Allocate the KV pool, build the runner and run first steps, so that the first request is not slower."""
        self.attention.allocate(configure.num_pages)
        self.model.rotary.allocate(configure.max_model_len, self.platform.device)
        config = self.config
        table = SlotTable(config.max_num_seqs, configure.max_model_len, config.page_size)
        last_stage = None
        if self.coords.is_last:
            last_stage = LastStage(
                self.model,
                self.world.group,
                table,
                self._sampler() if self.coords.samples else None,
                device=self.platform.device,
            )
        graphs = [] if config.enforce_eager else self._capture(configure)
        runner = ModelRunner(self.model, self.attention, table, self.world, last_stage, self.platform.device, graphs)
        _warm_up(runner, configure, config)
        return runner

    def _sampler(self) -> Sampler:
        config, vocab_size = self.config, self.model_config.vocab_size

        def matchers() -> Callable[[str], Any]:
            from gllm.text.grammar import build_ll_tokenizer, new_matcher
            from gllm.text.tokenizer import load_tokenizer

            return partial(new_matcher, build_ll_tokenizer(load_tokenizer(config.model), vocab_size))

        grammars = GrammarStore(matchers, vocab_size)
        grammars.preload()
        state = SamplingState(config.max_num_seqs, vocab_size, self.platform.device, grammars)
        return Sampler(state, self.platform.argmax)

    def _capture(self, configure: Configure) -> list[CapturedGraph]:
        """Capture the steps; empty if no step of this model can be captured here."""
        config, dtype = self.config, self.platform.dtype
        if self.platform.backend == "native":
            from gllm.layers.attention_backends.native import NativeAttention
            from gllm.worker.cpu_graph import capture_steps

            graph = capture_steps(self.model, cast(NativeAttention, self.attention), self._max_tokens, dtype)
            return [] if graph is None else [graph]
        # A graph cannot hold collectives that go through the host, or whose sizes the host must know.
        waits = config.ep > 1 or (self.world.staged and config.tp > 1)
        if self.platform.backend != "flashinfer" or waits:
            return []
        max_pages = -(-configure.max_model_len // config.page_size)
        attention = cast(GraphAttention, self.attention)
        with memory.room_for_graphs():
            return [
                CudaGraphs(self.model, attention, config.max_num_seqs, max_pages, dtype),
                PiecewiseGraphs(self.model, attention, self._max_tokens, dtype),
            ]


def _warm_up(runner: ModelRunner, configure: Configure, config: EngineConfig) -> None:
    """Run a prefill and a sampled decode in slot 0, as the engine would schedule them.

    This compiles kernels and touches memory that is allocated lazily. All ranks run it together, since activations pass
    from stage to stage.
    """
    prompt = max(1, min(8, configure.max_model_len - 1))
    pages = list(range(-(-(prompt + 1) // config.page_size)))
    sampling = SamplingParams(temperature=1.0, top_k=8, seed=0)
    sequence = NewSequence(
        slot=0, token_ids=[0] * prompt, num_prompt_tokens=prompt, num_computed_tokens=0, pages=pages, sampling=sampling
    )
    runner.launch(
        SchedulerOutput(
            epoch=0, step=0, slots=[0], num_tokens=[prompt], samples=[True], pages=[], new=[sequence], freed=[]
        )
    ).wait()
    runner.launch(
        SchedulerOutput(epoch=0, step=1, slots=[0], num_tokens=[1], samples=[True], pages=[], new=[], freed=[])
    ).wait()
    runner.launch(
        SchedulerOutput(epoch=0, step=2, slots=[], num_tokens=[], samples=[], pages=[], new=[], freed=[0])
    ).wait()
