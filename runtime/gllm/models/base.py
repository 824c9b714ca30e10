"""What every decoder-only model has around its layers, and the part of it that one pipeline stage holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from gllm.layers.attention_backends.base import AttentionBackend
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.embedding import Embedding, LMHead
from gllm.layers.norm import RMSNorm
from gllm.layers.parameter import Layer
from gllm.layers.rotary import Rotary
from gllm.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Names:
    """Checkpoint names of what is outside the layers."""

    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"


class CausalLM(Layer, ABC):
    """Embedding, decoder layers, final norm, LM head: all of it, or those of `layers` with the ends that go with them.

    A family says what a layer is in `decoder_layer`, and in `names` where its checkpoints differ.
    """

    names = Names()

    def __init__(self, config: ModelConfig, context: LayerContext, layers: range | None = None) -> None:
        """layers: those of this stage, neighbours; None: all."""
        layers = range(config.num_layers) if layers is None else layers
        self.config = config
        self.weight_bytes = 0
        """Bytes of weights on the device, as packed by `ops`; 0 until loaded."""
        self.rotary = Rotary(config.rope, config.rotary_dim)
        self.embedding: Embedding | None = None
        if layers.start == 0:
            self.embedding = Embedding(context, self.names.embedding, config.vocab_size, config.hidden_size)
        self.layers = [
            self.decoder_layer(config, context, index, kv_layer, self.rotary) for kv_layer, index in enumerate(layers)
        ]
        self.norm: RMSNorm | None = None
        self.head: LMHead | None = None
        if layers.stop == config.num_layers:
            tied = config.tie_word_embeddings
            self.norm = RMSNorm(context, self.names.norm, config.hidden_size, config.rms_norm_eps)
            self.head = LMHead(
                context,
                self.names.embedding if tied else self.names.head,
                config.vocab_size,
                config.hidden_size,
                self.embedding if tied else None,
            )

    @abstractmethod
    def decoder_layer(
        self, config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary
    ) -> DecoderLayer:
        """Layer `index` of the model, declared but not yet loaded; its pages are `kv_layer` of this rank's pool."""

    @torch.inference_mode()
    def forward(
        self,
        inputs: torch.Tensor,
        positions: torch.Tensor,
        attention: AttentionBackend,
        plan: Any,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """inputs: token ids [n] int64 on the first stage, else the stage before's result [n, hidden], which is
        overwritten. positions: [n] int64 on the device.

        Returns the normed hidden states [n, hidden]; on a stage that is not the last, the residual stream.
        wanted: [w] int64, on the last stage the tokens whose states are asked for (None: all); then [w, hidden]. The
        others only leave their keys and values behind, so the last layer spares them all that follows its attention.
        """
        x, residual = self.layers_but_last(self.embed(inputs), positions, attention, plan)
        return self.finish(*self.layers[-1](x, residual, positions, attention, plan, wanted))

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """The residual stream [n, hidden] that the layers begin with; inputs as in `forward`."""
        return inputs if self.embedding is None else self.embedding(inputs)

    def layers_but_last(
        self, hidden: torch.Tensor, positions: torch.Tensor, attention: AttentionBackend, plan: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden: [n, hidden], overwritten. Returns what the last layer takes, which alone may need only some rows."""
        x, residual = hidden, None
        for layer in self.layers[:-1]:
            x, residual = layer(x, residual, positions, attention, plan)
        return x, residual

    def finish(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The result of `forward` from that of the last layer, which may be overwritten."""
        # Between stages one tensor travels, not two.
        return residual.add_(x) if self.norm is None else self.norm.add(x, residual)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden: [r, hidden], rows of the last stage's result; returns [r, vocab] float32 (in `out`, if given)."""
        assert self.head is not None, "only the last stage has a head"
        return self.head(hidden, out)
