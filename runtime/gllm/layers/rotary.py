"""Rotary position embedding (https://arxiv.org/abs/2104.09864) and its scalings, as transformers computes them."""

from __future__ import annotations

import math

import torch

from gllm.models.config import RopeConfig


class Rotary:
    """One table of angles that all layers share; `allocate` fills it."""

    def __init__(self, config: RopeConfig, dim: int) -> None:
        """dim: the number of rotated dimensions of a head, counted from its first dimension."""
        self.config = config
        self.dim = dim
        self.cos_sin = torch.empty(0)

    def rows(self, context: int) -> int:
        """Return the number of rows of the table for sequences of up to `context` positions."""
        switch = self.config.switches_at
        return context if switch is None or context <= switch else 2 * context

    def num_bytes(self, context: int) -> int:
        return self.rows(context) * self.dim * torch.float32.itemsize

    def allocate(self, context: int, device: torch.device) -> None:
        """Fill cos_sin: [rows(context), dim] float32, dim / 2 cosines, then as many sines.

        If long sequences have other frequencies (`RopeConfig.switches_at`), the rows of short prompts come first,
        then the rows of long prompts, again from position 0 on. Tokens after a short prompt are rotated as transformers
        does while it generates: each token past the switch is rotated as in a sequence that ends with it.
        """
        config, dim = self.config, self.dim
        self.cos_sin = torch.empty(self.rows(context), dim, dtype=torch.float32, device=device)
        own = min(context, config.switches_at or context)
        self._fill(self.cos_sin[:own], 0, inverse_frequencies(config, dim))
        if own < context:
            if config.kind == "dynamic":
                after = _dynamic(config, dim, torch.arange(own + 1, context + 1))
            else:
                after = inverse_frequencies(config, dim, context)
            self._fill(self.cos_sin[own:context], own, after)
            self._fill(self.cos_sin[context:], 0, inverse_frequencies(config, dim, context))

    def _fill(self, rows: torch.Tensor, first: int, frequencies: torch.Tensor) -> None:
        """Fill the rows of positions from `first` on. frequencies: [dim / 2], or [rows, dim / 2]."""
        half = self.dim // 2
        positions = torch.arange(first, first + len(rows), device=rows.device).float()
        angles = positions[:, None] * frequencies.to(rows.device)
        torch.cos(angles, out=rows[:, :half])
        torch.sin(angles, out=rows[:, half:])
        if self.config.attention_factor != 1.0:
            rows *= self.config.attention_factor


def inverse_frequencies(config: RopeConfig, dim: int, context: int = 0) -> torch.Tensor:
    """Return [dim / 2] float32, radians per position, for sequences of up to `context` positions.

    The order of operations is the same as in `transformers.modeling_rope_utils`, so float32 results are identical.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    powers: torch.Tensor = config.theta**exponents
    is_long = config.switches_at is not None and context > config.switches_at
    match config.kind:
        case "longrope":
            factors = config.long_factors if is_long else config.frequency_factors
            return 1.0 / (torch.tensor(factors, dtype=torch.float32) * powers)
        case "yarn":
            return _yarn(config, dim, powers)
        case "dynamic" if is_long:
            return _dynamic(config, dim, torch.tensor([context]))[0]
    frequencies = 1.0 / powers
    match config.kind:
        case "linear":
            return frequencies / config.factor
        case "llama3":
            return _llama3(frequencies, config)
        case "factors":
            return frequencies / torch.tensor(config.frequency_factors, dtype=torch.float32)
    return frequencies


def _dynamic(config: RopeConfig, dim: int, lengths: torch.Tensor) -> torch.Tensor:
    """Return [len(lengths), dim / 2] for lengths above the original context: the base grows with the length."""
    stretch = config.factor * lengths / config.original_max_position - (config.factor - 1)
    bases: torch.Tensor = config.theta * stretch ** (dim / (dim - 2))
    return 1.0 / bases[:, None] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def _llama3(frequencies: torch.Tensor, config: RopeConfig) -> torch.Tensor:
    """Slow long waves down by `factor`, keep short waves, and interpolate between the two."""
    low, high, context = config.low_freq_factor, config.high_freq_factor, config.original_max_position
    waves = 2 * math.pi / frequencies
    scaled = torch.where(waves > context / low, frequencies / config.factor, frequencies)
    smooth = (context / waves - low) / (high - low)
    between = ~(waves < context / high) & ~(waves > context / low)
    return torch.where(between, (1 - smooth) * scaled / config.factor + smooth * scaled, scaled)


def _yarn(config: RopeConfig, dim: int, powers: torch.Tensor) -> torch.Tensor:
    """Return YaRN's frequencies (https://arxiv.org/abs/2309.00071). Dimensions that rotate more than `beta_fast` times
    within the original context are kept. Dimensions that rotate less than `beta_slow` times are slowed down by
    `factor`. The dimensions between are interpolated.

    powers: [dim / 2], the inverse of the plain frequencies.
    """

    def dimension(rotations: float) -> float:
        return dim * math.log(config.original_max_position / (rotations * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    kept = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    scaled: torch.Tensor = 1.0 / (config.factor * powers) * (1 - kept) + 1.0 / powers * kept
    return scaled
