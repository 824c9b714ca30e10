"""Declarations of weights, made before anything is read or allocated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

ALL = slice(None)

Transform = Callable[[torch.Tensor], torch.Tensor]
"""Turns a weight as the checkpoint stores it into the weight that the layer computes with, of the same shape."""


@dataclass(frozen=True, slots=True)
class CheckpointSlice:
    """The part of a checkpoint's tensor that this rank reads."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole tensor: [rows, columns], or [rows] for a vector."""
    rows: slice = field(default_factory=lambda: ALL)
    columns: slice = field(default_factory=lambda: ALL)
    transform: Transform | None = None
    """Applied to the slice when it is loaded."""

    @property
    def held(self) -> tuple[int, ...]:
        """The shape of the slice."""
        return tuple(
            len(range(*held.indices(size))) for size, held in zip(self.shape, (self.rows, self.columns), strict=False)
        )


class Parameter:
    """One weight of a layer on this rank: slices of the checkpoint's tensors, stacked along dimension 0.

    For example q_proj, k_proj and v_proj of one fused product. `linear` weights go through `Ops.pack_linear` once
    loaded. `tied_to` is the parameter whose tensor this one packs instead of reading its own.
    """

    def __init__(self, *slices: CheckpointSlice, linear: bool = False, tied_to: Parameter | None = None) -> None:
        self.slices = slices
        self.linear = linear
        self.tied_to = tied_to
        self.data: Any = None
        """A tensor of `shape`, or the result of `Ops.pack_linear`; None until loaded."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of this rank's weight."""
        return (sum(part.held[0] for part in self.slices), *self.slices[0].held[1:])

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of the loaded weight before packing; 0 for a tied weight, which has no memory of its own."""
        return 0 if self.tied_to is not None else math.prod(self.shape) * dtype.itemsize


class ExpertParameter(Parameter):
    """The same matrix of each of this rank's experts, of equal shapes; `data` is `ExpertOps.new_experts`, filled."""

    def __init__(self, experts: list[list[CheckpointSlice]]) -> None:
        """experts: the slices of each expert's matrix."""
        super().__init__(*(part for slices in experts for part in slices))
        self.experts = [Parameter(*slices) for slices in experts]


def pairs_to_halves(head_dim: int, rotary_dim: int) -> Transform:
    """Return a transform for heads whose rotary dimensions are paired as (2i, 2i + 1), as GLM stores them.

    It reorders the rows [heads * head_dim, ...] to (i, i + rotary_dim / 2), the pairs that the kernels rotate. The
    other dimensions stay in place. Applied to queries and keys alike, it changes no score.
    """
    return partial(_reorder, head_dim, rotary_dim)


def _reorder(head_dim: int, rotary_dim: int, rows: torch.Tensor) -> torch.Tensor:
    pairs = torch.arange(rotary_dim, device=rows.device).view(-1, 2).t().reshape(-1)
    order = torch.cat((pairs, torch.arange(rotary_dim, head_dim, device=rows.device)))
    return rows.view(-1, head_dim, *rows.shape[1:])[:, order].view(rows.shape)


class Layer:
    """Has parameters: its own, and the parameters of layers among its attributes (also in lists)."""

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter below this layer, in order of declaration."""
        for value in vars(self).values():
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, Parameter):
                    yield item
                elif isinstance(item, Layer):
                    yield from item.parameters()
