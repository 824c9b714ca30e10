"""What every decoder-only model has around its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from gllm.attention.base import AttentionBackend
from gllm.layers.decoder import DecoderLayer
from gllm.layers.embedding import Embedding, LMHead
from gllm.layers.norm import RMSNorm
from gllm.layers.ops import Ops
from gllm.layers.parameter import Layer
from gllm.layers.rotary import Rotary
from gllm.model_config import ModelConfig


class CausalLM(Layer, ABC):
    """Embedding, decoder layers, final norm, LM head. A family says what a layer is in `decoder_layer`."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        self.config = config
        self.weight_bytes = 0
        """Bytes of weights and rope tables on the device, as packed by `ops`; 0 until loaded."""
        self.rotary = Rotary(config.rope, config.head_dim, config.max_position)
        self.embedding = Embedding("model.embed_tokens", config.vocab_size, config.hidden_size)
        self.layers = [self.decoder_layer(config, ops, index, self.rotary) for index in range(config.num_layers)]
        self.norm = RMSNorm(ops, "model.norm", config.hidden_size, config.rms_norm_eps)
        tied_to = self.embedding if config.tie_word_embeddings else None
        self.head = LMHead(ops, "lm_head", config.vocab_size, config.hidden_size, tied_to)

    @abstractmethod
    def decoder_layer(self, config: ModelConfig, ops: Ops, index: int, rotary: Rotary) -> DecoderLayer:
        """Layer `index`, declared but not yet loaded."""

    @torch.inference_mode()
    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: AttentionBackend,
        plan: Any,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """token_ids, positions: [n] int64 on the device; returns the normed hidden states [n, hidden].

        wanted: [w] int64, the tokens whose states are asked for (None: all); then [w, hidden]. The others only leave
        their keys and values behind, so the last layer spares them everything that comes after its attention.
        """
        x, residual = self.embedding(token_ids), None
        for layer in self.layers[:-1]:
            x, residual = layer(x, residual, positions, attention, plan)
        x, residual = self.layers[-1](x, residual, positions, attention, plan, wanted)
        return self.norm.add(x, residual)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden: [r, hidden], rows of `forward`'s result; returns [r, vocab] float32 (in `out`, if given)."""
        return self.head(hidden, out)
