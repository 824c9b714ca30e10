"""Keys of config.json that the families in transformers' layout share, and the keys of mixtures of experts."""

from __future__ import annotations

from gllm.checkpoint.fields import MAX_EXPERTS, MAX_LAYERS, Fields
from gllm.models.config import ModelConfig, MoEConfig
from gllm.models.config_files.context_length import read_context
from gllm.models.config_files.rope import read_rope


def read_common(
    config: Fields,
    architecture: str,
    *,
    max_position: int,
    rms_norm_eps: float = 1e-6,
    rope_theta: float = 10000.0,
    partial_rotary_factor: float | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
    window: int | None = None,
    attention_bias: bool = False,
    attention_out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    moe: MoEConfig | None = None,
) -> ModelConfig:
    """Return the model's config. Raises ValueError that names the key.

    Arguments up to `tie_word_embeddings` are the family's defaults for missing keys, as in transformers' config
    classes. The arguments after it are the model's own values, already read.

    Args:
        partial_rotary_factor: None: the family rotates whole heads, and another factor is refused.
        num_kv_heads: None: as many as heads.
        head_dim: None: hidden_size / num_attention_heads.
        window: the attention window of any layer; None: every layer sees everything.
    """
    hidden_size, num_heads = config.positive_int("hidden_size"), config.positive_int("num_attention_heads")
    max_position = config.positive_int("max_position_embeddings", max_position)
    head_dim = _head_dim(config, head_dim, hidden_size, num_heads)
    rope = read_rope(
        config,
        max_position=max_position,
        head_dim=head_dim,
        theta=rope_theta,
        partial_factor=partial_rotary_factor,
    )
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=config.positive_int("intermediate_size"),
        num_layers=read_num_layers(config),
        num_heads=num_heads,
        num_kv_heads=config.positive_int("num_key_value_heads", num_kv_heads or num_heads),
        head_dim=head_dim,
        vocab_size=config.positive_int("vocab_size"),
        rms_norm_eps=config.positive_float("rms_norm_eps", rms_norm_eps),
        rope=rope,
        tie_word_embeddings=config.boolean("tie_word_embeddings", tie_word_embeddings),
        attention_bias=attention_bias,
        attention_out_bias=attention_out_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        moe=moe,
        **read_context(config, rope, max_position, window),
    )


def read_num_layers(config: Fields) -> int:
    return config.positive_int("num_hidden_layers", most=MAX_LAYERS)


def read_moe(
    config: Fields,
    *,
    num_experts: int,
    experts_per_token: int,
    size_key: str = "moe_intermediate_size",
    renormalize: bool | None = None,
    shared_intermediate_size: int = 0,
) -> MoEConfig:
    """Return the mixture of experts. Raises ValueError that names the key.

    num_experts, experts_per_token, shared_intermediate_size: defaults for missing keys; 0: no shared expert.
    size_key: the key of an expert's intermediate size. renormalize: None: the key norm_topk_prob decides.
    """
    # transformers 5 writes Qwen3-MoE's number under Mixtral's name.
    key = "num_experts" if config.get("num_experts") is not None else "num_local_experts"
    num_experts = config.positive_int(key, num_experts, most=MAX_EXPERTS)
    per_token = config.positive_int("num_experts_per_tok", experts_per_token)
    if per_token > num_experts:
        raise config.error("num_experts_per_tok", f"({per_token}) is above {key} ({num_experts})")
    if shared_intermediate_size:
        shared_intermediate_size = config.positive_int("shared_expert_intermediate_size", shared_intermediate_size)
    return MoEConfig(
        num_experts=num_experts,
        experts_per_token=per_token,
        intermediate_size=config.positive_int(size_key),
        renormalize=config.boolean("norm_topk_prob", False) if renormalize is None else renormalize,
        shared_intermediate_size=shared_intermediate_size,
        dense_layers=_dense_layers(config, read_num_layers(config)),
    )


def _dense_layers(config: Fields, num_layers: int) -> tuple[int, ...]:
    """Return the layers without experts: all but each `decoder_sparse_step`-th, and all in `mlp_only_layers`."""
    step = config.positive_int("decoder_sparse_step", 1)
    listed = config.get("mlp_only_layers", [])
    if not isinstance(listed, list) or any(isinstance(index, bool) or not isinstance(index, int) for index in listed):
        raise config.error("mlp_only_layers", f"must be a list of layer numbers, not {listed!r}")
    return tuple(index for index in range(num_layers) if index in listed or (index + 1) % step)


def _head_dim(config: Fields, default: int | None, hidden_size: int, num_heads: int) -> int:
    if default is not None:
        return config.positive_int("head_dim", default)
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise config.error("hidden_size", f"({hidden_size}) is no multiple of num_attention_heads ({num_heads})")
    return config.positive_int("head_dim", hidden_size // num_heads)


def check_heads(config: ModelConfig, where: str) -> ModelConfig:
    """Refuse sizes that no attention layer can have; `where` is the file."""
    if config.num_heads % config.num_kv_heads:
        raise ValueError(
            f"{where}: the number of attention heads ({config.num_heads}) is no multiple of the number of "
            f"key-value heads ({config.num_kv_heads})"
        )
    if config.head_dim % 2:
        raise ValueError(f"{where}: head_dim ({config.head_dim}) must be even for rope")
    if config.rotary_dim % 2 or not 0 < config.rotary_dim <= config.head_dim:
        raise ValueError(
            f"{where}: partial_rotary_factor ({config.rope.partial_factor}) must rotate an even number of a head's "
            f"{config.head_dim} dimensions"
        )
    return config
