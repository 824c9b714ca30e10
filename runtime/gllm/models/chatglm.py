"""ChatGLM2, ChatGLM3 and GLM-4-9B in their authors' layout: the layers of Glm under other names, with a fused qkv."""

from __future__ import annotations

from gllm.layers.attention import Attention
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.mlp import GatedMLP
from gllm.layers.norm import RMSNorm
from gllm.layers.rotary import Rotary
from gllm.models.base import CausalLM, Names
from gllm.models.config import ModelConfig


class ChatGLMModel(CausalLM):
    names = Names(
        embedding="transformer.embedding.word_embeddings",
        norm="transformer.encoder.final_layernorm",
        head="transformer.output_layer",
    )

    def decoder_layer(
        self, config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary
    ) -> DecoderLayer:
        name, size, eps = f"transformer.encoder.layers.{index}", config.hidden_size, config.rms_norm_eps
        return DecoderLayer(
            input_norm=RMSNorm(context, f"{name}.input_layernorm", size, eps),
            attention=Attention(
                context,
                f"{name}.self_attention",
                config,
                layer=kv_layer,
                rotary=rotary,
                bias=config.attention_bias,
                out_bias=False,
                fused="query_key_value",
                out="dense",
                interleaved=True,
            ),
            mlp_norm=RMSNorm(context, f"{name}.post_attention_layernorm", size, eps),
            mlp=GatedMLP(
                context,
                f"{name}.mlp",
                size,
                config.intermediate_size,
                fused="dense_h_to_4h",
                down="dense_4h_to_h",
            ),
        )
