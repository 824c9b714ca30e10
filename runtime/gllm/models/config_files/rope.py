"""Rope settings of config.json in their three historic spellings."""

from __future__ import annotations

import math

from gllm.checkpoint.fields import Fields
from gllm.models.config import RopeConfig

_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_ALIASES = {"su": "longrope"}
"""Older names that some files still use."""


def read_rope(
    config: Fields, *, max_position: int, head_dim: int, theta: float, partial_factor: float | None
) -> RopeConfig:
    """Resolve `rope_scaling` (`rope_type`, older `type`) with `rope_theta`, or `rope_parameters` (transformers 5).

    theta, partial_factor: the family's defaults; without a default another partial factor than 1 is refused.

    Keys that transformers does not know, such as yarn's `attn_factor`, have no effect here either.
    """
    # As in transformers, the older key wins where a file has both.
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    values = config.get(key, {})
    if not isinstance(values, dict):
        raise config.error(key, f"must be an object, not {values!r}")
    if any(isinstance(value, dict) for value in values.values()):
        raise config.error(key, "differs between layers, which is not supported")
    scaling = Fields(values, f"{config.where}: {key}")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    kind = _ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in _KINDS:
        raise scaling.error("rope_type", f"{kind!r} is not supported; supported are {', '.join(_KINDS)}")
    theta = scaling.positive_float("rope_theta", config.positive_float("rope_theta", theta))
    part = _partial_factor(config, scaling, partial_factor)
    plain = RopeConfig(theta=theta, partial_factor=part)
    match kind:
        case "linear":
            return RopeConfig(theta=theta, partial_factor=part, kind=kind, factor=scaling.positive_float("factor"))
        case "dynamic":
            if scaling.get("alpha"):
                raise scaling.error("alpha", "of HunYuan's own dynamic scaling is not supported")
            return RopeConfig(
                theta=theta,
                partial_factor=part,
                kind=kind,
                factor=scaling.positive_float("factor"),
                original_max_position=max_position,
            )
        case "llama3":
            return _llama3(scaling, plain, _original_max_position(config, scaling, max_position))
        case "yarn":
            return _yarn(scaling, plain, _original_max_position(config, scaling, max_position), max_position)
        case "longrope":
            original = _original_max_position(config, scaling, max_position)
            return _longrope(scaling, plain, original, max_position, int(head_dim * part) // 2)
    return plain


def scaled_positions(rope: RopeConfig, max_position: int) -> int:
    """Return the context length after scaling, by vLLM's rule. max_position: the config's own number of positions."""
    match rope.kind:
        case "linear" | "dynamic":
            return int(max_position * max(1.0, rope.factor))
        case "yarn":
            return int(rope.original_max_position * max(1.0, rope.factor))
    return max_position


def yarn_attention_factor(factor: float, weight: float = 1.0) -> float:
    """Return the factor that the paper recommends (https://arxiv.org/abs/2309.00071); configs call `weight` mscale."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def longrope_attention_factor(factor: float, original_max_position: int) -> float:
    """Return the factor of https://arxiv.org/abs/2402.13753."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_max_position))


def _llama3(scaling: Fields, plain: RopeConfig, original: int) -> RopeConfig:
    rope = RopeConfig(
        theta=plain.theta,
        partial_factor=plain.partial_factor,
        kind="llama3",
        factor=scaling.positive_float("factor"),
        low_freq_factor=scaling.positive_float("low_freq_factor"),
        high_freq_factor=scaling.positive_float("high_freq_factor"),
        original_max_position=original,
    )
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise scaling.error("high_freq_factor", "must be above low_freq_factor")
    return rope


def _yarn(scaling: Fields, plain: RopeConfig, original: int, max_position: int) -> RopeConfig:
    factor = scaling.positive_float("factor", max_position / original)
    mscale, all_dims = scaling.get("mscale"), scaling.get("mscale_all_dim")
    attention = yarn_attention_factor(factor)
    if mscale and all_dims:
        attention = yarn_attention_factor(factor, scaling.positive_float("mscale")) / yarn_attention_factor(
            factor, scaling.positive_float("mscale_all_dim")
        )
    return RopeConfig(
        theta=plain.theta,
        partial_factor=plain.partial_factor,
        kind="yarn",
        factor=factor,
        original_max_position=original,
        attention_factor=scaling.positive_float("attention_factor", attention),
        # As in transformers, 0 means the default.
        beta_fast=scaling.positive_float("beta_fast", 32.0) if scaling.get("beta_fast") else 32.0,
        beta_slow=scaling.positive_float("beta_slow", 1.0) if scaling.get("beta_slow") else 1.0,
        truncate=scaling.boolean("truncate", True),
    )


def _longrope(scaling: Fields, plain: RopeConfig, original: int, max_position: int, pairs: int) -> RopeConfig:
    factor = scaling.positive_float("factor", max_position / original)
    return RopeConfig(
        theta=plain.theta,
        partial_factor=plain.partial_factor,
        kind="longrope",
        factor=factor,
        original_max_position=original,
        attention_factor=scaling.positive_float("attention_factor", longrope_attention_factor(factor, original)),
        frequency_factors=scaling.positive_floats("short_factor", pairs),
        long_factors=scaling.positive_floats("long_factor", pairs),
    )


def _partial_factor(config: Fields, scaling: Fields, default: float | None) -> float:
    """Return the part of a head that is rotated. A family that does not know the key refuses it.

    Otherwise the key would be ignored.
    """
    key = "partial_rotary_factor"
    if default is not None:
        return scaling.positive_float(key, config.positive_float(key, default))
    for fields in (config, scaling):
        if fields.get(key, 1.0) != 1.0:
            raise fields.error(key, "is not supported (only full rotation is)")
    return 1.0


def _original_max_position(config: Fields, scaling: Fields, max_position: int) -> int:
    """Return the original context. As in transformers, the config's own key wins over the key in the rope settings."""
    key = "original_max_position_embeddings"
    return config.positive_int(key, scaling.positive_int(key, max_position))
