"""GLM-4-9B (Glm) and GLM-4-0414 (Glm4) in transformers' layout.

Rope rotates half of each head, in pairs of neighbouring dimensions. Glm4 also norms the outputs of attention and
MLP before it adds them to the residual stream.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gllm.checkpoint.fields import Fields
from gllm.checkpoint.gguf_layout import GGUFLayout
from gllm.models.config import ModelConfig
from gllm.models.config_files.common import read_common
from gllm.models.family import Family
from gllm.models.llama import GGUF_PARTS

if TYPE_CHECKING:
    from gllm.layers.context import LayerContext
    from gllm.layers.decoder import DecoderLayer
    from gllm.layers.rotary import Rotary
    from gllm.models.causal_lm import CausalLM


def _read(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    return read_common(
        config,
        architecture,
        max_position=131072,
        rms_norm_eps=1.5625e-7,
        num_kv_heads=2,
        head_dim=128,
        partial_rotary_factor=0.5,
        attention_bias=config.boolean("attention_bias", True),
    )


def _build_model(
    config: ModelConfig, context: LayerContext, layers: range | None = None, *, norms_outputs: bool
) -> CausalLM:
    from gllm.models.causal_lm import CausalLM

    return CausalLM(config, context, layers, build_layer=partial(_build_layer, norms_outputs=norms_outputs))


def _build_layer(
    config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary, *, norms_outputs: bool
) -> DecoderLayer:
    from gllm.layers.attention import Attention
    from gllm.layers.decoder import DecoderLayer
    from gllm.layers.mlp import GatedMLP
    from gllm.layers.norm import RMSNorm

    name = f"model.layers.{index}"
    norm = partial(RMSNorm, context, size=config.hidden_size, eps=config.rms_norm_eps)
    return DecoderLayer(
        input_norm=norm(f"{name}.input_layernorm"),
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
        attention_out_norm=norm(f"{name}.post_self_attn_layernorm") if norms_outputs else None,
        mlp_norm=norm(f"{name}.post_attention_layernorm"),
        mlp=GatedMLP(context, f"{name}.mlp", config.hidden_size, config.intermediate_size, fused="gate_up_proj"),
        mlp_out_norm=norm(f"{name}.post_mlp_layernorm") if norms_outputs else None,
    )


_gguf = partial(
    GGUFLayout,
    layer="model.layers",
    parts=GGUF_PARTS
    | {
        "ffn_up": "mlp.gate_up_proj",
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    },
    rotates_part=True,
)

FAMILIES = (
    Family(
        architecture="GlmForCausalLM",
        model_type="glm",
        read_config=_read,
        gguf=_gguf(architecture="chatglm"),
        build_model=partial(_build_model, norms_outputs=False),
    ),
    Family(
        architecture="Glm4ForCausalLM",
        model_type="glm4",
        read_config=_read,
        gguf=_gguf(architecture="glm4"),
        build_model=partial(_build_model, norms_outputs=True),
    ),
)
