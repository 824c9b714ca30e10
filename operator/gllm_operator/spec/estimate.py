"""Estimates whether the model fits into memory, from its config. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import Estimate
from gllm_operator.objects import parse_quantity
from gllm_operator.spec.parallel_config import ParallelConfig

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig

_ACTIVATIONS = 0.06
"""Share of the memory for activations, captured graphs and libraries."""


def estimate(spec: LLMDeploymentSpec, shape: ParallelConfig, model: ModelConfig | None) -> Estimate:
    if model is None:
        return Estimate(fits="Unknown", message="the operator cannot read the model's config.json")
    width = 4 if (spec.model.dtype if spec.model.dtype != "auto" else model.dtype) == "float32" else 2
    weights = weights_of_rank(model, shape) * width
    if spec.accelerator.memory is None:
        return Estimate(
            fits="Unknown",
            weights_per_rank=weights,
            message=f"{_gib(weights)} of weights on a rank; set accelerator.memory to compare",
        )
    share = spec.engine.gpu_memory_utilization or 0.9
    memory = parse_quantity(spec.accelerator.memory)
    free = int(memory * (share - _ACTIVATIONS)) - weights
    per_token = kv_bytes_of_rank(model, shape) * width
    tokens = max(0, free) // per_token
    needed = spec.model.max_model_len or 0
    figures = f"{_gib(weights)} of weights on a rank with {_gib(memory)} x {share:g}: {tokens} tokens of KV cache fit"
    if tokens > needed:
        return Estimate(fits="Yes", weights_per_rank=weights, kv_tokens=tokens, message=figures)
    fix = "use more stages (parallelism.pipeline), more ranks (parallelism.tensor) or larger accelerators"
    if needed:
        fix = f"model.maxModelLen is {needed}; {fix}, or a smaller maxModelLen"
    return Estimate(fits="No", weights_per_rank=weights, kv_tokens=tokens, message=f"{figures}; {fix}")


def weights_of_rank(model: ModelConfig, shape: ParallelConfig) -> int:
    """The number of weights on the rank that has the most: its layers and the larger of embedding and head."""
    layers = -(-model.num_layers // shape.pipeline)
    layer = sum(model.layer_weights(index) for index in range(model.num_layers)) // model.num_layers
    vocabulary = model.vocab_size * model.hidden_size
    ends = vocabulary if shape.pipeline > 1 or model.tie_word_embeddings else 2 * vocabulary
    return (layers * layer + ends) // shape.tensor


def kv_bytes_of_rank(model: ModelConfig, shape: ParallelConfig) -> int:
    """The number of values that one token takes in the KV cache of the rank that has the most layers."""
    heads = max(1, model.num_kv_heads // shape.tensor)
    return -(-model.num_layers // shape.pipeline) * 2 * heads * model.head_dim


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
