"""The arguments that all layers share."""

from __future__ import annotations

from dataclasses import dataclass, field

from gllm.layers.ops.protocols import ExpertOps, Ops
from gllm.layers.ops.torch_experts import TorchExperts
from gllm.parallel.tensor_group import SINGLE_RANK, TensorGroup


@dataclass(frozen=True, slots=True)
class LayerContext:
    """The device's math, and the tensor-parallel ranks with which a layer shares its work."""

    ops: Ops
    group: TensorGroup = SINGLE_RANK
    ep: int = 1
    """The number of expert groups into which the ranks of `group` are divided; it divides the group's size."""
    experts: ExpertOps = field(default_factory=TorchExperts)
