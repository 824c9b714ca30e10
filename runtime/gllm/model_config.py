"""A model's shape, read from config.json or GGUF metadata; plain data, no torch."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    theta: float = 10000.0
    kind: Literal["default", "linear", "llama3", "factors"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    frequency_factors: tuple[float, ...] = ()
    """Kind factors (GGUF's rope_freqs tensor): head_dim / 2 divisors of the inverse frequencies."""
    partial_factor: float = 1.0
    """The part of a head that is turned, from its first dimension on."""


class MoEConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The mixture of experts in place of most layers' MLP."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    """Of one expert."""
    renormalize: bool
    """Whether the weights of a token's experts are scaled to a sum of 1."""
    shared_intermediate_size: int = 0
    """Of the expert that every token passes through, weighted by a sigmoid gate; 0: there is none."""
    dense_layers: tuple[int, ...] = ()
    """Layers that have an ordinary MLP, of the model's `intermediate_size`."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Names follow Hugging Face config.json, with its historic variants already resolved."""

    architecture: str
    """Hugging Face class name, for example LlamaForCausalLM."""
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    """Width of the logits; the tokenizer may know fewer tokens."""
    max_position: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool
    """Bias on q, k and v."""
    attention_out_bias: bool = False
    mlp_bias: bool = False
    moe: MoEConfig | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """What the checkpoint says; quantized GGUF counts as bfloat16."""
    eos_token_ids: tuple[int, ...] = ()
    """Any of these ends a generation (`gllm.text.eos`)."""
    bos_token_id: int | None = None
    generation_defaults: dict[str, Any] = {}
    """Sampling defaults of generation_config.json: temperature, top_p, top_k, min_p, repetition_penalty."""

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of a head rope turns, the first ones."""
        return int(self.head_dim * self.rope.partial_factor)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts."""
        return self.moe is not None and layer not in self.moe.dense_layers
