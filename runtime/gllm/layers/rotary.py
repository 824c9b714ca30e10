"""Rotary position embedding (https://arxiv.org/abs/2104.09864) and its scalings, as transformers computes them."""

from __future__ import annotations

import math

import torch

from gllm.model_config import RopeConfig


class Rotary:
    """One table of angles that all layers share; `allocate` fills it when the weights are loaded."""

    def __init__(self, config: RopeConfig, dim: int, max_position: int) -> None:
        """dim: how many dimensions of a head are turned, the first ones."""
        self.config = config
        self.dim = dim
        self.max_position = max_position
        self.cos_sin = torch.empty(0)

    @property
    def num_bytes(self) -> int:
        return self.max_position * self.dim * torch.float32.itemsize

    def allocate(self, device: torch.device) -> None:
        """cos_sin: [max_position, dim] float32, dim / 2 cosines, then as many sines."""
        half = self.dim // 2
        frequencies = inverse_frequencies(self.config, self.dim).to(device)
        angles = torch.arange(self.max_position, device=device).float()[:, None] * frequencies
        self.cos_sin = torch.empty(self.max_position, self.dim, dtype=torch.float32, device=device)
        torch.cos(angles, out=self.cos_sin[:, :half])
        torch.sin(angles, out=self.cos_sin[:, half:])


def inverse_frequencies(config: RopeConfig, dim: int) -> torch.Tensor:
    """[dim / 2] float32, radians per position.

    The order of operations is that of `transformers.modeling_rope_utils`, so that float32 results are identical.
    """
    frequencies = 1.0 / (config.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    if config.kind == "linear":
        return frequencies / config.factor
    if config.kind == "llama3":
        return _llama3(frequencies, config)
    if config.kind == "factors":
        return frequencies / torch.tensor(config.frequency_factors, dtype=torch.float32)
    return frequencies


def _llama3(frequencies: torch.Tensor, config: RopeConfig) -> torch.Tensor:
    """Long waves are slowed down by `factor`, short ones kept, those between interpolated."""
    low, high, context = config.low_freq_factor, config.high_freq_factor, config.original_max_position
    waves = 2 * math.pi / frequencies
    scaled = torch.where(waves > context / low, frequencies / config.factor, frequencies)
    smooth = (context / waves - low) / (high - low)
    between = ~(waves < context / high) & ~(waves > context / low)
    return torch.where(between, (1 - smooth) * scaled / config.factor + smooth * scaled, scaled)
