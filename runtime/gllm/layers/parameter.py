"""Declarations of weights, made before anything is read or allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

ALL = slice(None)


@dataclass(frozen=True, slots=True)
class RotaryPairs:
    """The rows are of heads whose rotary dimensions are paired as (2i, 2i + 1), which GLM's checkpoints do.

    Loading reorders them to (i, i + rotary_dim / 2), the pairs that the kernels turn. Done to queries and keys alike it
    changes no score.
    """

    head_dim: int
    rotary_dim: int
    """The dimensions of a head past these are not turned, and stay where they are."""

    def to_halves(self, rows: torch.Tensor) -> torch.Tensor:
        """rows: [heads * head_dim, ...]; returns them reordered."""
        pair = torch.arange(self.rotary_dim, device=rows.device).view(-1, 2).t().reshape(-1)
        order = torch.cat((pair, torch.arange(self.rotary_dim, self.head_dim, device=rows.device)))
        return rows.view(-1, self.head_dim, *rows.shape[1:])[:, order].view(rows.shape)


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the checkpoint, and the piece of it that this rank holds."""

    name: str
    shape: tuple[int, ...]
    """In the checkpoint: [rows, columns], or [rows] for a vector."""
    rows: slice = field(default_factory=lambda: ALL)
    columns: slice = field(default_factory=lambda: ALL)
    pairs: RotaryPairs | None = None

    @property
    def held(self) -> tuple[int, ...]:
        """The shape of the piece."""
        return tuple(
            len(range(*piece.indices(size))) for size, piece in zip(self.shape, (self.rows, self.columns), strict=False)
        )


class Parameter:
    """One weight of a layer on this rank: pieces of the checkpoint's tensors, stacked along dimension 0.

    For example q_proj, k_proj and v_proj of one fused product. `linear` weights go through `Ops.pack_linear` once
    loaded. `tied_to` names the parameter whose tensor this one packs instead of reading its own.
    """

    def __init__(self, *parts: Part, linear: bool = False, tied_to: Parameter | None = None) -> None:
        self.parts = parts
        self.linear = linear
        self.tied_to = tied_to
        self.data: Any = None
        """A tensor of `shape`, or what `Ops.pack_linear` made of it; None until loaded."""

    @property
    def shape(self) -> tuple[int, ...]:
        """What this rank holds."""
        return (sum(part.held[0] for part in self.parts), *self.parts[0].held[1:])

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Bytes once loaded, before packing; 0 for a tied weight, which shares the other's."""
        return 0 if self.tied_to is not None else math.prod(self.shape) * dtype.itemsize


class ExpertParameter(Parameter):
    """The same matrix of each of this rank's experts, of equal shapes; `data` is `ExpertOps.new_experts`, filled."""

    def __init__(self, experts: list[list[Part]]) -> None:
        """experts: the parts of each expert's matrix."""
        super().__init__(*(part for parts in experts for part in parts))
        self.experts = [Parameter(*parts) for parts in experts]


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
