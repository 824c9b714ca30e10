"""The config of a model, as plain data that all processes share. No torch."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gllm.config import Dtype


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    theta: float = 10000.0
    kind: Literal["default", "linear", "llama3", "factors", "dynamic", "yarn", "longrope"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Kind yarn: whether the bounds between kept and slowed frequencies are whole dimensions."""
    attention_factor: float = 1.0
    """Kinds yarn and longrope: multiplies cosines and sines."""
    original_max_position: int = 8192
    frequency_factors: tuple[float, ...] = ()
    """rotary_dim / 2 divisors of the inverse frequencies. Kind factors: GGUF's rope_freqs tensor. Kind longrope: the
    divisors for sequences up to `original_max_position`."""
    long_factors: tuple[float, ...] = ()
    """Kind longrope: the divisors for longer sequences."""
    partial_factor: float = 1.0
    """The part of a head that is rotated, from its first dimension on."""

    @property
    def switches_at(self) -> int | None:
        """Prompts of more tokens than this use other frequencies; None: all use the same."""
        return self.original_max_position if self.kind in ("dynamic", "longrope") else None


class MoEConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The mixture of experts in place of most layers' MLP."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    """Intermediate size of one expert."""
    renormalize: bool
    """Whether the weights of a token's experts are scaled to a sum of 1."""
    shared_intermediate_size: int = 0
    """Intermediate size of the expert that all tokens share, with a sigmoid gate as its weight; 0: no shared expert."""
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
    """The longest context that may be asked for, in tokens."""
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool
    """Bias on q, k and v."""
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """Whether each query and key head is normed before rope."""
    moe: MoEConfig | None = None
    dtype: Dtype = "bfloat16"
    """The dtype of the checkpoint; quantized GGUF counts as bfloat16."""
    eos_token_ids: tuple[int, ...] = ()
    """Any of these ends a generation (`gllm.text.vocabulary.eos`)."""
    bos_token_id: int | None = None
    default_context: int = 0
    """The context that is served unless another is asked for; 0: `max_position`."""
    context_note: str = ""
    """Why the context is shorter than the config's own number of positions; empty: it is as long."""
    generation_defaults: dict[str, Any] = {}
    """Sampling defaults of the model's files (generation_config.json, GGUF header), for fields of DEFAULTED_FIELDS."""

    def context(self, asked: int = 0) -> int:
        """Return the context in tokens for --max-model-len `asked`; 0: not set. Raises ValueError if it is too long."""
        if asked > self.max_position:
            reason = f" ({self.context_note})" if self.context_note else ""
            raise ValueError(
                f"max_model_len {asked} is more than the model's {self.max_position} positions{reason}: "
                f"set it to {self.max_position} or less"
            )
        return asked or self.default_context or self.max_position

    @property
    def rotary_dim(self) -> int:
        """The number of dimensions of a head that rope rotates, counted from the first."""
        return int(self.head_dim * self.rope.partial_factor)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts."""
        return self.moe is not None and layer not in self.moe.dense_layers

    def layer_weights(self, layer: int, *, active: bool = False) -> int:
        """Return the number of weights in one layer's matrices. active: count only the experts that one token uses.

        A matrix product multiplies each weight once per token. Vectors, such as biases, norms and the gate of a shared
        expert, are not counted.
        """
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        if self.moe is None or not self.has_experts(layer):
            return attention + 3 * self.hidden_size * self.intermediate_size
        moe = self.moe
        experts = moe.experts_per_token if active else moe.num_experts
        width = experts * moe.intermediate_size + moe.shared_intermediate_size
        return attention + self.hidden_size * (moe.num_experts + 3 * width)
