"""A decoder-only model: embedding, decoder layers, final norm and LM head, or one pipeline stage of it."""

from __future__ import annotations

from typing import Protocol, final

import torch

from gllm.checkpoint.gguf_layout import NAMES, Names
from gllm.layers.attention_backends.backend import AttentionSpec
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.embedding import Embedding, LMHead
from gllm.layers.norm import RMSNorm
from gllm.layers.parameter import Layer
from gllm.layers.rotary import Rotary
from gllm.layers.step import Step
from gllm.models.config import ModelConfig


class BuildLayer(Protocol):
    def __call__(
        self, config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary
    ) -> DecoderLayer:
        """Return layer `index` of the model, declared but not loaded. kv_layer: its index in this rank's KV pool."""


class CausalLM(Layer):
    """All of a model, or the layers of one stage: the first has the embedding, the last the final norm and the head.

    A family passes `build_layer`, and `names` where its checkpoints differ.
    """

    def __init__(
        self,
        config: ModelConfig,
        context: LayerContext,
        layers: range | None,
        *,
        build_layer: BuildLayer,
        names: Names = NAMES,
    ) -> None:
        """layers: the contiguous layers of this stage; None: all."""
        layers = range(config.num_layers) if layers is None else layers
        self.config = config
        self.names = names
        self.weight_bytes = 0
        """Bytes of weights on the device, as packed by `ops`; 0 until loaded."""
        self.rotary = Rotary(config.rope, config.rotary_dim)
        self.embedding: Embedding | None = None
        if layers.start == 0:
            self.embedding = Embedding(context, self.names.embedding, config.vocab_size, config.hidden_size)
        self.layers = [
            build_layer(config, context, index, kv_layer, self.rotary) for kv_layer, index in enumerate(layers)
        ]
        self.norm: RMSNorm | None = None
        self.head: LMHead | None = None
        if layers.stop == config.num_layers:
            self.layers[-1].is_last = True
            tied = config.tie_word_embeddings
            self.norm = RMSNorm(context, self.names.norm, config.hidden_size, config.rms_norm_eps)
            self.head = LMHead(
                context,
                self.names.embedding if tied else self.names.head,
                config.vocab_size,
                config.hidden_size,
                self.embedding if tied else None,
            )

    @property
    def attention_specs(self) -> list[AttentionSpec]:
        """The attention of each layer of this stage, for the attention backend."""
        return [layer.attention.spec for layer in self.layers]

    @final
    @torch.inference_mode()
    def __call__(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        """`forward` in inference mode, which no override can lose."""
        return self.forward(inputs, step)

    @final
    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """`compute_logits` in inference mode, which no override can lose."""
        return self.compute_logits(hidden, out)

    def forward(self, inputs: torch.Tensor, step: Step) -> torch.Tensor:
        """Run the stage. inputs: token ids [n] int64 on the first stage; on others the result [n, hidden] of the stage
        before, which is overwritten.

        Returns the normed hidden states on the last stage: [n, hidden], or [r, hidden] with `step.logits_indices` [r].
        On other stages: the residual stream [n, hidden].
        """
        x, residual = self.layers_but_last(self.embed(inputs), step)
        return self.finish(*self.layers[-1](x, residual, step))

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the residual stream [n, hidden] that the layers begin with; inputs as in `forward`."""
        return inputs if self.embedding is None else self.embedding(inputs)

    def layers_but_last(self, hidden: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run all layers but the last. hidden: [n, hidden], overwritten. Returns x and residual for the last layer."""
        x, residual = hidden, None
        for layer in self.layers[:-1]:
            x, residual = layer(x, residual, step)
        return x, residual

    def finish(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the result of `forward` from the last layer's x and residual, which may be overwritten."""
        # x is added here, so that only one tensor travels to the next stage.
        return residual.add_(x) if self.norm is None else self.norm.add(x, residual)

    def compute_logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """hidden: [r, hidden], rows of the last stage's result. Returns [r, vocab] float32 (in `out`, if given)."""
        assert self.head is not None, "only the last stage has a head"
        return self.head(hidden, out)
