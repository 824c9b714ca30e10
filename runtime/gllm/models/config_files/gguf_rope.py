"""Rope settings of a GGUF header."""

from __future__ import annotations

import numpy as np
from gguf.constants import GGMLQuantizationType

from gllm.checkpoint.fields import Fields
from gllm.checkpoint.gguf_file import GGUFFile
from gllm.models.config import RopeConfig
from gllm.models.config_files.rope import yarn_attention_factor

_KINDS = ("none", "linear", "yarn", "longrope")


def read_gguf_rope(file: GGUFFile, fields: Fields, name: str, head_dim: int) -> RopeConfig:
    """Return the rope settings. name: the architecture, with which the keys begin. Raises ValueError.

    llama.cpp's converter writes Llama 3's scaling as a tensor of frequency divisors.
    """
    scaling = f"{name}.rope.scaling"
    theta = fields.positive_float(f"{name}.rope.freq_base", 10000.0)
    kind = fields.get(f"{scaling}.type", "none")
    if kind not in _KINDS:
        raise fields.error(f"{scaling}.type", f"{kind!r} is not supported; supported are {', '.join(_KINDS)}")
    if "rope_freqs.weight" in file.tensors:
        if kind != "none":
            raise ValueError(f"{file.path}: rope_freqs.weight must go with no other scaling, not {kind}")
        divisors = _divisors(file, "rope_freqs.weight", head_dim)
        return RopeConfig(theta=theta, kind="factors", frequency_factors=divisors)
    # rope.scale_linear is the key of files made before 2024.
    factor = fields.positive_float(f"{scaling}.factor", fields.positive_float(f"{name}.rope.scale_linear", 1.0))
    attention = fields.positive_float(f"{scaling}.attn_factor", 1.0)
    original = fields.positive_int(f"{scaling}.original_context_length", fields.positive_int(f"{name}.context_length"))
    if kind == "longrope":
        return RopeConfig(
            theta=theta,
            kind="longrope",
            factor=factor,
            original_max_position=original,
            attention_factor=attention,
            frequency_factors=_divisors(file, "rope_factors_short.weight", head_dim),
            long_factors=_divisors(file, "rope_factors_long.weight", head_dim),
        )
    if kind == "yarn":
        return RopeConfig(
            theta=theta,
            kind="yarn",
            factor=factor,
            original_max_position=original,
            attention_factor=yarn_attention_factor(factor) * attention,
            beta_fast=fields.positive_float(f"{scaling}.yarn_beta_fast", 32.0),
            beta_slow=fields.positive_float(f"{scaling}.yarn_beta_slow", 1.0),
        )
    if factor != 1.0 and (kind == "linear" or fields.get(f"{scaling}.type") is None):
        return RopeConfig(theta=theta, kind="linear", factor=factor)
    return RopeConfig(theta=theta)


def _divisors(file: GGUFFile, name: str, head_dim: int) -> tuple[float, ...]:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ValueError(f"{file.path} has no tensor {name}, which its rope scaling needs")
    if tensor.shape != (head_dim // 2,) or tensor.type != GGMLQuantizationType.F32:
        raise ValueError(f"{file.path}: {name} must hold {head_dim // 2} F32 values")
    factors = tuple(file.raw(tensor).view(np.float32).reshape(-1).tolist())
    if not all(factor > 0 for factor in factors):
        raise ValueError(f"{file.path}: {name} must hold positive numbers")
    return factors
