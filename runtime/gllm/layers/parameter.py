"""Declarations of weights, made before anything is read or allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch

ShardDim = Literal[0, 1]


class Parameter:
    """One weight of a layer: the checkpoint's tensors it is made of, stacked along dimension 0.

    `parts` are (checkpoint name, number of rows), for example q_proj, k_proj and v_proj of one fused product.
    `columns` is None for vectors. `shard_dim` says along which dimension each part is divided between tensor-parallel
    ranks; None: every rank holds the whole. `linear` weights go through `Ops.pack_linear` once loaded.
    `tied_to` names the parameter whose tensor this one packs instead of reading its own.
    """

    def __init__(
        self,
        *parts: tuple[str, int],
        columns: int | None = None,
        shard_dim: ShardDim | None = None,
        linear: bool = False,
        tied_to: Parameter | None = None,
    ) -> None:
        self.parts = parts
        self.columns = columns
        self.shard_dim = shard_dim
        self.linear = linear
        self.tied_to = tied_to
        self.data: Any = None
        """A tensor of `shape`, or what `Ops.pack_linear` made of it; None until loaded."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shape_of(sum(rows for _, rows in self.parts))

    def shape_of(self, rows: int) -> tuple[int, ...]:
        """The shape of a part with this many rows."""
        return (rows,) if self.columns is None else (rows, self.columns)

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Bytes once loaded, before packing; 0 for a tied weight, which shares the other's."""
        return 0 if self.tied_to is not None else math.prod(self.shape) * dtype.itemsize


class Layer:
    """Something with parameters, its own or those of layers it holds as attributes (also in lists)."""

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter below this layer, in order of declaration."""
        for value in vars(self).values():
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, Parameter):
                    yield item
                elif isinstance(item, Layer):
                    yield from item.parameters()
