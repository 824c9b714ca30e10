"""Typed access to untrusted keys and values of a JSON file or a GGUF header; errors name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LARGEST = 1e38
"""The largest number that a config may hold; float32 goes up to 3.4e38."""
MAX_LAYERS = 4096
MAX_EXPERTS = 4096


class Fields:
    """Keys and values of one JSON object or GGUF header. A key with the value None counts as absent."""

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
        """Return a list of `count` positive numbers. Raises ValueError."""
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
        """Raise ValueError if a key has another value than `value`, which is the implemented one."""
        found = self.get(key, value)
        if found != value:
            raise self.error(key, f"{found!r} is not supported ({value} is)")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Return the ids of a key with one id, a list of ids, or nothing. Raises ValueError."""
        value = self.get(key, [])
        ids = value if isinstance(value, list) else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
            raise self.error(key, f"must be a token id or a list of them, not {value!r}")
        return tuple(ids)

    def error(self, key: str, problem: str) -> ValueError:
        return ValueError(f"{self.where}: {key} {problem}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST
