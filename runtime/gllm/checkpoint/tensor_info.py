"""What is known of a tensor before it is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: str
    """As the file format calls it, for example BF16 or Q4_K."""
    readable: bool
    """Whether the source can turn this dtype into floats."""
