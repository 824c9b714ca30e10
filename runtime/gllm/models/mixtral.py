"""Mixtral: Mistral's attention, and a mixture of experts in every layer."""

from __future__ import annotations

from gllm.layers.attention import Attention
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.experts import ExpertNames
from gllm.layers.moe import MoE
from gllm.layers.norm import RMSNorm
from gllm.layers.rotary import Rotary
from gllm.models.base import CausalLM
from gllm.models.config import ModelConfig

_EXPERT = ExpertNames(gate="w1", up="w3", down="w2")


class MixtralForCausalLM(CausalLM):
    def decoder_layer(
        self, config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary
    ) -> DecoderLayer:
        assert config.moe is not None
        name, size, eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
        return DecoderLayer(
            input_norm=RMSNorm(context, f"{name}.input_layernorm", size, eps),
            attention=Attention(
                context,
                f"{name}.self_attn",
                config,
                layer=kv_layer,
                rotary=rotary,
                bias=False,
                out_bias=False,
            ),
            mlp_norm=RMSNorm(context, f"{name}.post_attention_layernorm", size, eps),
            mlp=MoE(context, f"{name}.block_sparse_moe", size, config.moe, _EXPERT),
        )
