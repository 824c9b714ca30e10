"""Typed access to untrusted key-value configs, with errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gllm.models.config import ModelConfig

_LARGEST = 1e38
"""Largest number a config may hold: what float32 can."""
MAX_LAYERS = 4096
MOST_EXPERTS = 4096


class Fields:
    """Values of one JSON object or GGUF header. A key with value None counts as absent."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def positive_int(self, key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        value = self.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self.error(key, f"must be an integer from 1 to {most}, not {value!r}")
        return value

    def positive_float(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if not _is_positive(value):
            raise self.error(key, f"must be a positive number, not {value!r}")
        return float(value)

    def positive_floats(self, key: str, count: int) -> tuple[float, ...]:
        """A list of `count` positive numbers."""
        values = self.get(key)
        if not isinstance(values, list) or len(values) != count or not all(map(_is_positive, values)):
            raise self.error(key, f"must be a list of {count} positive numbers, not {values!r:.80}")
        return tuple(float(value) for value in values)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def only(self, key: str, value: str) -> None:
        """Refuse any other value of a key than the one that is implemented."""
        found = self.get(key, value)
        if found != value:
            raise self.error(key, f"{found!r} is not supported ({value} is)")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """An id, a list of ids, or nothing."""
        value = self.get(key, [])
        ids = value if isinstance(value, list) else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
            raise self.error(key, f"must be a token id or a list of them, not {value!r}")
        return tuple(ids)

    def error(self, key: str, problem: str) -> ValueError:
        return ValueError(f"{self.where}: {key} {problem}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST


def check_shape(config: ModelConfig, where: str) -> ModelConfig:
    """Refuse shapes that no attention layer can have."""
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
