"""Rope settings of config.json in their three historic spellings."""

from __future__ import annotations

from typing import Any, Literal

from gllm.model_config import RopeConfig
from gllm.model_config_loader.fields import Fields


def load_rope(config: Fields, max_position: int) -> RopeConfig:
    """Resolve `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (`rope_type`, older `type`)."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    values = config.get(key, {})
    if not isinstance(values, dict):
        raise config.error(key, f"must be an object, not {values!r}")
    if any(isinstance(value, dict) for value in values.values()):
        raise config.error(key, "differs between layers, which is not supported")
    scaling = Fields(values, f"{config.where}: {key}")
    for fields in (config, scaling):
        if fields.get("partial_rotary_factor", 1.0) != 1.0:
            raise fields.error("partial_rotary_factor", "is not supported (only full rotation is)")
    theta = scaling.positive_float("rope_theta", config.positive_float("rope_theta", 10000.0))
    kind = _rope_kind(scaling, scaling.get("rope_type", scaling.get("type", "default")))
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=scaling.positive_float("factor"))
    if kind == "llama3":
        rope = RopeConfig(
            theta=theta,
            kind=kind,
            factor=scaling.positive_float("factor"),
            low_freq_factor=scaling.positive_float("low_freq_factor"),
            high_freq_factor=scaling.positive_float("high_freq_factor"),
            original_max_position=_original_max_position(config, scaling, max_position),
        )
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise scaling.error("high_freq_factor", "must be above low_freq_factor")
        return rope
    return RopeConfig(theta=theta)


def _original_max_position(config: Fields, scaling: Fields, max_position: int) -> int:
    """Like transformers, the config's own key wins over the one beside the other rope settings."""
    key = "original_max_position_embeddings"
    return config.positive_int(key, scaling.positive_int(key, max_position))


def _rope_kind(fields: Fields, kind: Any) -> Literal["default", "linear", "llama3"]:
    """Check the name of a rope scaling."""
    if kind in ("default", "linear", "llama3"):
        checked: Literal["default", "linear", "llama3"] = kind
        return checked
    raise fields.error("rope_type", f"{kind!r} is not supported; supported are default, linear, llama3")
