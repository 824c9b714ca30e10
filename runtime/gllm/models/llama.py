"""Llama and families with its layers: Mistral, Qwen2, Qwen3 and their mixtures of experts; SmolLM2, deepseek-coder.

The families differ in their config keys and in tensor names. The layers read the config: biases, norms of query and key
heads, experts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gllm.checkpoint.fields import Fields
from gllm.checkpoint.gguf_layout import GGUFLayout
from gllm.models.config import ModelConfig
from gllm.models.config_files.common import read_common, read_moe, read_num_layers
from gllm.models.family import Family

if TYPE_CHECKING:
    from gllm.layers.context import LayerContext
    from gllm.layers.decoder import DecoderLayer
    from gllm.layers.rotary import Rotary
    from gllm.models.causal_lm import CausalLM

_DEFAULT_WINDOW, _DEFAULT_WINDOW_LAYERS = 4096, 28
"""`sliding_window` and `max_window_layers` of the Qwen families in transformers."""


def _read_llama(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    bias = config.boolean("attention_bias", False)
    return read_common(
        config,
        architecture,
        max_position=2048,
        attention_bias=bias,
        attention_out_bias=bias,
        mlp_bias=config.boolean("mlp_bias", False),
    )


def _read_mistral(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    bias = config.boolean("attention_bias", False)
    window = _window_of_key(config, default=4096)
    return read_common(
        config, architecture, max_position=131072, window=window, attention_bias=bias, attention_out_bias=bias
    )


def _read_mixtral(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    moe = read_moe(config, num_experts=8, experts_per_token=2, size_key="intermediate_size", renormalize=True)
    return read_common(
        config,
        architecture,
        max_position=131072,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        window=_window_of_key(config, default=None),
        moe=moe,
    )


def _read_qwen2(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    window = _window_of_layers(config, after_max_window_layers=True)
    return read_common(config, architecture, max_position=32768, window=window, attention_bias=True)


def _read_qwen2_moe(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    return read_common(
        config,
        architecture,
        max_position=32768,
        window=_window_of_layers(config),
        attention_bias=config.boolean("qkv_bias", True),
        moe=read_moe(config, num_experts=60, experts_per_token=4, shared_intermediate_size=5632),
    )


def _read_qwen3(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    bias = config.boolean("attention_bias", False)
    return read_common(
        config,
        architecture,
        max_position=32768,
        head_dim=128,
        window=_window_of_layers(config, after_max_window_layers=True),
        attention_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
    )


def _read_qwen3_moe(config: Fields, architecture: str) -> ModelConfig:
    config.only("hidden_act", "silu")
    bias = config.boolean("attention_bias", False)
    return read_common(
        config,
        architecture,
        max_position=32768,
        window=_window_of_layers(config),
        attention_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        moe=read_moe(config, num_experts=128, experts_per_token=8),
    )


def _window_of_key(config: Fields, default: int | None) -> int | None:
    """Return the attention window of families in which only `sliding_window` decides; null means no window."""
    if "sliding_window" not in config.values:
        return default
    return None if config.get("sliding_window") is None else config.positive_int("sliding_window")


def _window_of_layers(config: Fields, after_max_window_layers: bool = False) -> int | None:
    """Return the attention window of the Qwen families, None if no layer has one.

    after_max_window_layers: only layers from number `max_window_layers` on have the window.
    """
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list):
        used = "sliding_attention" in layer_types
    else:
        used = config.boolean("use_sliding_window", False)
        first = config.get("max_window_layers", _DEFAULT_WINDOW_LAYERS)
        if after_max_window_layers and isinstance(first, int):
            used = used and first < read_num_layers(config)
    return config.positive_int("sliding_window", _DEFAULT_WINDOW) if used else None


def build_model(
    config: ModelConfig,
    context: LayerContext,
    layers: range | None = None,
    moe: str = "mlp",
    experts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> CausalLM:
    """moe, experts: the checkpoint's names of the mixture in a layer, and of an expert's three matrices."""
    from gllm.models.causal_lm import CausalLM

    return CausalLM(config, context, layers, build_layer=partial(_build_layer, moe=moe, experts=experts))


def _build_layer(
    config: ModelConfig,
    context: LayerContext,
    index: int,
    kv_layer: int,
    rotary: Rotary,
    *,
    moe: str,
    experts: tuple[str, str, str],
) -> DecoderLayer:
    from gllm.layers.attention import Attention
    from gllm.layers.decoder import DecoderLayer
    from gllm.layers.experts import ExpertNames
    from gllm.layers.mlp import GatedMLP
    from gllm.layers.moe import MoE
    from gllm.layers.norm import RMSNorm

    name, size, eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
    mlp: GatedMLP | MoE
    if config.moe is not None and config.has_experts(index):
        mlp = MoE(context, f"{name}.{moe}", size, config.moe, ExpertNames(*experts))
    else:
        mlp = GatedMLP(context, f"{name}.mlp", size, config.intermediate_size, bias=config.mlp_bias)
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
            qk_norm=config.qk_norm,
        ),
        mlp_norm=RMSNorm(context, f"{name}.post_attention_layernorm", size, eps),
        mlp=mlp,
    )


GGUF_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QWEN_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_MIXTRAL_EXPERTS = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
_gguf = partial(GGUFLayout, layer="model.layers")

FAMILIES = (
    Family(
        architecture="LlamaForCausalLM",
        aliases=("LLaMAForCausalLM",),  # of the first conversions
        model_type="llama",
        read_config=_read_llama,
        gguf=_gguf(architecture="llama", parts=GGUF_PARTS, interleaves_heads=True),
        build_model=build_model,
    ),
    Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        read_config=_read_mistral,
        gguf=None,  # its files call themselves llama
        build_model=build_model,
    ),
    Family(
        architecture="MixtralForCausalLM",
        model_type="mixtral",
        read_config=_read_mixtral,
        gguf=_gguf(
            architecture="llama",
            only_with="blk.0.ffn_gate_exps.weight",
            parts=GGUF_PARTS | _MIXTRAL_EXPERTS,
            interleaves_heads=True,
        ),
        build_model=partial(build_model, moe="block_sparse_moe", experts=("w1", "w3", "w2")),
    ),
    Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        read_config=_read_qwen2,
        gguf=_gguf(architecture="qwen2", parts=GGUF_PARTS),
        build_model=build_model,
    ),
    Family(
        architecture="Qwen2MoeForCausalLM",
        model_type="qwen2_moe",
        read_config=_read_qwen2_moe,
        gguf=_gguf(architecture="qwen2moe", parts=GGUF_PARTS | _QWEN_EXPERTS, renormalizes=False),
        build_model=build_model,
    ),
    Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        read_config=_read_qwen3,
        gguf=_gguf(architecture="qwen3", parts=GGUF_PARTS),
        build_model=build_model,
    ),
    Family(
        architecture="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        read_config=_read_qwen3_moe,
        gguf=_gguf(architecture="qwen3moe", parts=GGUF_PARTS | _QWEN_EXPERTS),
        build_model=build_model,
    ),
)
