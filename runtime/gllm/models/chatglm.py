"""ChatGLM2, ChatGLM3 and GLM-4-9B in their authors' layout, for which transformers has no class.

The layers are the same as Glm's under other names, with one tensor for queries, keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gllm.checkpoint.fields import MAX_LAYERS, Fields
from gllm.checkpoint.gguf_layout import GGUFLayout, Names
from gllm.models.config import ModelConfig, RopeConfig
from gllm.models.family import Family

if TYPE_CHECKING:
    from gllm.layers.context import LayerContext
    from gllm.layers.decoder import DecoderLayer
    from gllm.layers.rotary import Rotary
    from gllm.models.causal_lm import CausalLM

_NAMES = Names(
    embedding="transformer.embedding.word_embeddings",
    norm="transformer.encoder.final_layernorm",
    head="transformer.output_layer",
)
_ONLY = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "multi_query_attention": True,
    "add_bias_linear": False,
}
"""Switches of the authors' code that have the same value in every published model."""
_THETA = 10000.0
_ROTARY_PART = 0.5


def _read(config: Fields, architecture: str) -> ModelConfig:
    for key, value in _ONLY.items():
        # The authors' class gives a missing switch the same value, except for this one.
        default = value if key != "multi_query_attention" else False
        if config.boolean(key, default) != value:
            raise config.error(key, f"must be {str(value).lower()}: no other kind of ChatGLM is supported")
    for key in ("quantization_bit", "pre_seq_len", "vision_config"):
        if config.get(key, 0) != 0:
            raise config.error(key, "is set: quantized, prefix-tuned and image models are not supported")
    return ModelConfig(
        architecture=architecture,
        hidden_size=config.positive_int("hidden_size"),
        intermediate_size=config.positive_int("ffn_hidden_size"),
        num_layers=config.positive_int("num_layers", most=MAX_LAYERS),
        num_heads=config.positive_int("num_attention_heads"),
        num_kv_heads=config.positive_int("multi_query_group_num", 1),
        head_dim=config.positive_int("kv_channels", 128),
        vocab_size=config.positive_int("padded_vocab_size", config.get("vocab_size")),
        max_position=config.positive_int("seq_length", 2048),
        rms_norm_eps=config.positive_float("layernorm_epsilon", 1e-5),
        rope=RopeConfig(theta=_THETA * _rope_ratio(config), partial_factor=_ROTARY_PART),
        tie_word_embeddings=config.boolean("tie_word_embeddings", False),
        attention_bias=config.boolean("add_qkv_bias", False),
    )


def _rope_ratio(config: Fields) -> float:
    """Return the factor of rope's base in ChatGLM3 and GLM-4. ChatGLM2's 32k model divides positions by it instead."""
    ratio = config.positive_float("rope_ratio", 1.0)
    if ratio != 1.0 and "chatglm2" in str(config.get("_name_or_path", "")).lower():
        raise config.error("rope_ratio", "of ChatGLM2 is not supported: use ChatGLM3 for long contexts")
    return ratio


def _build_model(config: ModelConfig, context: LayerContext, layers: range | None = None) -> CausalLM:
    from gllm.models.causal_lm import CausalLM

    return CausalLM(config, context, layers, build_layer=_build_layer, names=_NAMES)


def _build_layer(config: ModelConfig, context: LayerContext, index: int, kv_layer: int, rotary: Rotary) -> DecoderLayer:
    from gllm.layers.attention import Attention
    from gllm.layers.decoder import DecoderLayer
    from gllm.layers.mlp import GatedMLP
    from gllm.layers.norm import RMSNorm

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


_GGUF = GGUFLayout(
    architecture="chatglm",
    only_with="blk.0.attn_qkv.weight",
    names=_NAMES,
    layer="transformer.encoder.layers",
    parts={
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attention.query_key_value",
        "attn_output": "self_attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    rotates_part=True,
)

FAMILIES = tuple(
    Family(architecture=name, model_type="chatglm", read_config=_read, gguf=_GGUF, build_model=_build_model)
    for name in ("ChatGLMModel", "ChatGLMForConditionalGeneration")
)
