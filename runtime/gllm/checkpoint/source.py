"""The interface of a checkpoint: tensors under Hugging Face names, listed without being read, read in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

CHUNK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str
    """The name in the file format, for example BF16 or Q4_K."""
    readable: bool
    """Whether the source can turn this dtype into floats."""


class TensorSource(Protocol):
    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by its Hugging Face name."""

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        """Fill `out` with tensor[rows, columns] (tensor[rows] for a vector), converted to its dtype and device.

        Besides `out`, only a chunk of the tensor is in memory at any time. Slices have step 1.
        Raises ValueError naming the file and the tensor if it cannot be read.
        """


def chunked(rows: slice, num_rows: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Split `rows` of a tensor into (rows of the tensor, rows of the result) of about CHUNK_BYTES each.

    So loading needs little memory besides the weights themselves.
    """
    start, stop, _ = rows.indices(num_rows)
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for first in range(start, stop, step):
        last = min(first + step, stop)
        yield slice(first, last), slice(first - start, last - start)
