"""GLM-4-9B (Glm) and GLM-4-0414 (Glm4) in transformers' layout: rope turns neighbouring dimensions of half a head."""

from __future__ import annotations

from gllm.layers.attention import Attention
from gllm.layers.context import LayerContext
from gllm.layers.decoder import DecoderLayer
from gllm.layers.mlp import GatedMLP
from gllm.layers.norm import RMSNorm
from gllm.layers.rotary import Rotary
from gllm.models.base import CausalLM
from gllm.models.config import ModelConfig


class GlmForCausalLM(CausalLM):
    norms_outputs = False
    """Whether what attention and MLP add to the residual stream is normed too."""

    def decoder_layer(
        self, config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary
    ) -> DecoderLayer:
        name = f"model.layers.{index}"

        def norm(part: str) -> RMSNorm:
            return RMSNorm(context, f"{name}.{part}", config.hidden_size, config.rms_norm_eps)

        return DecoderLayer(
            input_norm=norm("input_layernorm"),
            attention=Attention(
                context,
                f"{name}.self_attn",
                config,
                layer=kv_layer,
                rotary=rotary,
                bias=config.attention_bias,
                out_bias=False,
                interleaved=True,
            ),
            attention_out_norm=norm("post_self_attn_layernorm") if self.norms_outputs else None,
            mlp_norm=norm("post_attention_layernorm"),
            mlp=GatedMLP(context, f"{name}.mlp", config.hidden_size, config.intermediate_size, fused="gate_up_proj"),
            mlp_out_norm=norm("post_mlp_layernorm") if self.norms_outputs else None,
        )


class Glm4ForCausalLM(GlmForCausalLM):
    norms_outputs = True
