"""Qwen1.5-MoE and Qwen2-MoE: Qwen2's attention, a mixture of experts with one that all tokens share."""

from __future__ import annotations

from gllm.layers.attention import Attention
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.mlp import GatedMLP
from gllm.layers.moe import MoE
from gllm.layers.norm import RMSNorm
from gllm.layers.rotary import Rotary
from gllm.models.base import CausalLM
from gllm.models.config import ModelConfig


class Qwen2MoeForCausalLM(CausalLM):
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
                out_bias=False,
            ),
            mlp_norm=RMSNorm(context, f"{name}.post_attention_layernorm", size, eps),
            mlp=mlp(config, context, index, f"{name}.mlp"),
        )


def mlp(config: ModelConfig, context: LayerContext, index: int, name: str) -> GatedMLP | MoE:
    """Experts, or in some layers an ordinary MLP; the same in Qwen3-MoE."""
    if config.moe is not None and config.has_experts(index):
        return MoE(context, name, config.hidden_size, config.moe)
    return GatedMLP(context, name, config.hidden_size, config.intermediate_size)
