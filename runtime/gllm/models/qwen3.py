"""Qwen3: a norm of each query and key head before rope."""

from __future__ import annotations

from gllm.layers.attention import Attention
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.mlp import GatedMLP
from gllm.layers.norm import RMSNorm
from gllm.layers.rotary import Rotary
from gllm.models.base import CausalLM
from gllm.models.config import ModelConfig


class Qwen3ForCausalLM(CausalLM):
    def decoder_layer(
        self, config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary
    ) -> DecoderLayer:
        name, size, eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
        return DecoderLayer(
            input_norm=RMSNorm(context, f"{name}.input_layernorm", size, eps),
            attention=Attention(
                context,
                f"{name}.self_attn",
                config,
                layer=kv_layer,
                rotary=rotary,
                bias=config.attention_bias,
                out_bias=config.attention_out_bias,
                qk_norm=True,
            ),
            mlp_norm=RMSNorm(context, f"{name}.post_attention_layernorm", size, eps),
            mlp=GatedMLP(context, f"{name}.mlp", size, config.intermediate_size),
        )
