"""Rope settings of config.json in their three historic spellings."""

from __future__ import annotations

from typing import Any, Literal

from gllm.model_config import RopeConfig
from gllm.model_config_loader.families import Family
from gllm.model_config_loader.fields import Fields


def load_rope(config: Fields, family: Family, max_position: int) -> RopeConfig:
    """Resolve `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (`rope_type`, older `type`)."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    values = config.get(key, {})
    if not isinstance(values, dict):
        raise config.error(key, f"must be an object, not {values!r}")
    if any(isinstance(value, dict) for value in values.values()):
        raise config.error(key, "differs between layers, which is not supported")
    scaling = Fields(values, f"{config.where}: {key}")
    theta = scaling.positive_float("rope_theta", config.positive_float("rope_theta", family.rope_theta))
    part = _partial_factor(config, scaling, family)
    kind = _rope_kind(scaling, scaling.get("rope_type", scaling.get("type", "default")))
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=scaling.positive_float("factor"), partial_factor=part)
    if kind == "llama3":
        rope = RopeConfig(
            theta=theta,
            kind=kind,
            partial_factor=part,
            factor=scaling.positive_float("factor"),
            low_freq_factor=scaling.positive_float("low_freq_factor"),
            high_freq_factor=scaling.positive_float("high_freq_factor"),
            original_max_position=_original_max_position(config, scaling, max_position),
        )
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise scaling.error("high_freq_factor", "must be above low_freq_factor")
        return rope
    return RopeConfig(theta=theta, partial_factor=part)


def _partial_factor(config: Fields, scaling: Fields, family: Family) -> float:
    """The part of a head that is turned; refused where the family does not know of it, since it would be ignored."""
    key = "partial_rotary_factor"
    if family.partial_rotary_factor is not None:
        return scaling.positive_float(key, config.positive_float(key, family.partial_rotary_factor))
    for fields in (config, scaling):
        if fields.get(key, 1.0) != 1.0:
            raise fields.error(key, "is not supported (only full rotation is)")
    return 1.0


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
