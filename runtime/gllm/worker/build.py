"""Puts a worker together: model, memory budget, runner, warm-up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from gllm.attention.base import AttentionBackend, AttentionBatch, GraphAttention, KVShape
from gllm.config import EngineConfig
from gllm.messages import Configure, NewSequence, StepPlan
from gllm.model_config import ModelConfig
from gllm.models.base import CausalLM
from gllm.models.loader import estimate_weight_bytes, load_model
from gllm.sampling_params import SamplingParams
from gllm.worker import memory
from gllm.worker.devices import Platform, choose_platform
from gllm.worker.graphs import DecodeGraphs
from gllm.worker.runner import ModelRunner
from gllm.worker.sampling.grammar import GrammarFactory
from gllm.worker.sampling.sampler import Sampler
from gllm.worker.sampling.state import SamplingState
from gllm.worker.slots import SlotTable


class WorkerBuilder:
    """Loads the model at construction, then says how many pages fit, then makes the runner."""

    def __init__(self, config: EngineConfig, model_config: ModelConfig, progress: Callable[[float], None]) -> None:
        self.config = config
        self.model_config = model_config
        self.platform: Platform = choose_platform(config, model_config)
        platform = self.platform
        memory.check_weights_fit(estimate_weight_bytes(model_config, platform.dtype), platform.device)
        self.model: CausalLM = load_model(
            config.model,
            model_config,
            dtype=platform.dtype,
            device=platform.device,
            ops=platform.ops,
            load_format=config.load_format,
            seed=config.seed,
            progress=progress,
        )
        self.shape = KVShape(
            num_layers=model_config.num_layers,
            num_heads=model_config.num_heads,
            num_kv_heads=model_config.num_kv_heads,
            head_dim=model_config.head_dim,
            page_size=config.page_size,
            dtype=platform.dtype,
            device=platform.device,
        )
        self.attention: AttentionBackend = platform.make_attention(self.shape)

    def capacity(self) -> int:
        """KV pages that fit the memory budget, after measuring what the largest forward pass takes."""
        max_len = self.config.max_model_len or self.model_config.max_position
        peak = self._measure_peak() if self.platform.device.type == "cuda" else 0
        return memory.kv_pages(self.config, self.shape.page_bytes, max_len, self.platform.device, peak)

    @torch.inference_mode()
    def _measure_peak(self) -> int:
        """Bytes a pass of max_prefill_tokens and max_num_seqs sampled rows takes at most beside weights and KV."""
        tokens, page_size = self.config.max_prefill_tokens + self.config.max_num_seqs, self.config.page_size
        device = self.platform.device
        self.attention.allocate(1)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        # Rows of one page share page 0: the result is meaningless, the memory is what counts.
        rows = -(-tokens // page_size)
        batch = AttentionBatch(
            num_decode_rows=0,
            query_lens=np.full(rows, page_size, np.int32),
            kv_lens=np.full(rows, page_size, np.int32),
            block_tables=np.zeros((rows, 1), np.int32),
        )
        zeros = torch.zeros(rows * page_size, dtype=torch.int64, device=device)
        hidden = self.model.forward(zeros, zeros, self.attention, self.attention.plan(batch))
        logits = self.model.logits(hidden[: self.config.max_num_seqs])
        torch.softmax(logits, dim=-1).cumsum(-1, dtype=torch.float64)
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.empty_cache()
        return peak

    def runner(self, configure: Configure) -> ModelRunner:
        """Allocate the KV pool, build the runner and run a first step, so that ready means ready."""
        self.attention.allocate(configure.num_pages)
        config, vocab_size = self.config, self.model_config.vocab_size

        def matchers() -> Callable[[str], Any]:
            # Only a request with a grammar needs these.
            from gllm.text.grammar import build_ll_tokenizer, new_matcher
            from gllm.text.tokenizer import load_tokenizer

            return partial(new_matcher, build_ll_tokenizer(load_tokenizer(config.model), vocab_size))

        state = SamplingState(
            config.max_num_seqs, vocab_size, self.platform.device, GrammarFactory(matchers, vocab_size)
        )
        sampler = Sampler(state, self.platform.argmax)
        table = SlotTable(config.max_num_seqs, configure.max_model_len, config.page_size)
        runner = ModelRunner(
            self.model, self.attention, state, sampler, table, self.platform.device, self._graphs(configure)
        )
        _warm_up(runner, configure, config)
        return runner

    def _graphs(self, configure: Configure) -> DecodeGraphs | None:
        if self.platform.backend != "flashinfer" or not self.config.cuda_graphs:
            return None
        max_pages = -(-configure.max_model_len // self.config.page_size)
        attention = cast(GraphAttention, self.attention)
        return DecodeGraphs(self.model, attention, self.config.max_num_seqs, max_pages, self.platform.dtype)


def _warm_up(runner: ModelRunner, configure: Configure, config: EngineConfig) -> None:
    """A prefill and a sampled decode in slot 0, as the engine would plan them; compiles and touches what is lazy."""
    prompt = max(1, min(8, configure.max_model_len - 1))
    pages = list(range(-(-(prompt + 1) // config.page_size)))
    sampling = SamplingParams(temperature=1.0, top_k=8, seed=0)
    sequence = NewSequence(0, [0] * prompt, prompt, 0, pages, sampling)
    runner.launch(StepPlan(0, 0, [0], [prompt], [True], [], [sequence], [])).collect()
    runner.launch(StepPlan(0, 1, [0], [1], [True], [], [], [])).collect()
    runner.launch(StepPlan(0, 2, [], [], [], [], [], [0]))
