"""config.json of ChatGLM2, ChatGLM3 and GLM-4 in their authors' own layout, which transformers has no class for."""

from __future__ import annotations

from gllm.model_config_loader.fields import MAX_LAYERS, Fields
from gllm.models.config import ModelConfig, RopeConfig

_ONLY = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "multi_query_attention": True,
    "add_bias_linear": False,
}
"""Switches of the authors' code that every published model sets in one way."""
_THETA = 10000.0
_ROTARY_PART = 0.5


def load_chatglm_shape(config: Fields, architecture: str) -> ModelConfig:
    """The model's shape, without what generation_config.json says. Raises ValueError naming the key."""
    for key, value in _ONLY.items():
        # The authors' class gives a missing switch the same value, but for this one.
        default = value if key != "multi_query_attention" else False
        if config.boolean(key, default) != value:
            raise config.error(key, f"must be {str(value).lower()}: no other kind of ChatGLM is supported")
    for key in ("quantization_bit", "pre_seq_len", "vision_config"):
        if config.get(key, 0) != 0:
            raise config.error(key, "is set: quantized, prefix-tuned and image models are not supported")
    num_heads = config.positive_int("num_attention_heads")
    return ModelConfig(
        architecture=architecture,
        hidden_size=config.positive_int("hidden_size"),
        intermediate_size=config.positive_int("ffn_hidden_size"),
        num_layers=config.positive_int("num_layers", most=MAX_LAYERS),
        num_heads=num_heads,
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
    """What stretches rope's base in ChatGLM3 and GLM-4; ChatGLM2's 32k model divides positions by it instead."""
    ratio = config.positive_float("rope_ratio", 1.0)
    if ratio != 1.0 and "chatglm2" in str(config.get("_name_or_path", "")).lower():
        raise config.error("rope_ratio", "of ChatGLM2 is not supported: use ChatGLM3 for long contexts")
    return ratio
