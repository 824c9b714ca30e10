"""A forward pass runs in inference mode, also where a model overrides parts of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fixtures.mini_runner import cpu_pool
from fixtures.tiny_models import write_hf
from gllm.layers.attention_backends.backend import AttentionBatch
from gllm.layers.attention_backends.reference import ReferenceAttention
from gllm.layers.context import LayerContext
from gllm.layers.ops.torch_ops import TorchOps
from gllm.layers.step import Step
from gllm.models.causal_lm import CausalLM
from gllm.models.families import load_model_config
from gllm.models.loader import load_model


class Capped(CausalLM):
    """Overrides both parts that a family may override."""

    def forward(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        return super().forward(inputs, step) * 2

    def compute_logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return super().compute_logits(hidden, out).tanh_()


def test_overrides_run_in_inference_mode(tmp_path: Path) -> None:
    folder = write_hf("llama", tmp_path)
    config = load_model_config(folder)
    context = LayerContext(TorchOps())
    model = load_model(folder, config, dtype=torch.float32, device=torch.device("cpu"), context=context)
    model.__class__ = Capped
    attention = ReferenceAttention(cpu_pool(config, page_size=8, dtype=torch.float32), model.attention_specs)
    attention.allocate(1)
    lens = np.array([3], np.int32)
    metadata = attention.prepare(AttentionBatch(0, lens, lens, np.zeros((1, 1), np.int32)))
    hidden = model(torch.tensor([1, 2, 3]), Step(torch.arange(3), metadata, torch.tensor([2])))
    assert hidden.shape == (1, config.hidden_size)
    assert hidden.is_inference()
    assert model.logits(hidden).is_inference()
