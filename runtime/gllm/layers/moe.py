"""A mixture of experts in place of an MLP: router, experts, and the expert that all tokens share."""

from __future__ import annotations

import torch

from gllm.layers.context import LayerContext
from gllm.layers.expert_dispatch import Dispatch
from gllm.layers.experts import ExpertNames, Experts
from gllm.layers.linear import Linear
from gllm.layers.mlp import GatedMLP
from gllm.layers.parameter import CheckpointSlice, Layer, Parameter
from gllm.models.config import MoEConfig


class Router(Layer):
    """Chooses the experts of each token and their weights; whole on every rank."""

    def __init__(self, context: LayerContext, prefix: str, hidden_size: int, moe: MoEConfig) -> None:
        self.ops, self.experts = context.ops, context.experts
        self.k, self.renormalize = moe.experts_per_token, moe.renormalize
        self.weight = Parameter(CheckpointSlice(f"{prefix}.weight", (moe.num_experts, hidden_size)), linear=True)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x: [n, hidden] -> experts [n, k] int32, weights [n, k] float32."""
        return self.experts.route(self.ops.linear(x, self.weight.data, None), self.k, self.renormalize)


class SharedExpert(Layer):
    """An MLP of every token, weighted by a sigmoid gate: [n, hidden], to be summed over ranks."""

    def __init__(self, context: LayerContext, prefix: str, gate: str, hidden_size: int, intermediate_size: int) -> None:
        self.gate = Linear(context, [CheckpointSlice(f"{gate}.weight", (1, hidden_size))], [])
        self.mlp = GatedMLP(context, prefix, hidden_size, intermediate_size, partial=True)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x).mul_(torch.sigmoid(self.gate(x)))


class MoE(Layer):
    """x: [n, hidden] -> [n, hidden].

    With ep = 1 every rank holds a slice of every expert, and one all-reduce ends the block, as in an MLP. Otherwise
    tokens are sent to the ranks of their experts (`Dispatch`). The shared expert is divided like an MLP in both cases.
    """

    def __init__(
        self,
        context: LayerContext,
        prefix: str,
        hidden_size: int,
        moe: MoEConfig,
        names: ExpertNames = ExpertNames(),  # noqa: B008  frozen
    ) -> None:
        self.group = context.group
        self.router = Router(context, f"{prefix}.gate", hidden_size, moe)
        self.experts = Experts(context, f"{prefix}.experts", hidden_size, moe, names)
        self.shared: SharedExpert | None = None
        if moe.shared_intermediate_size:
            shared = f"{prefix}.shared_expert"
            self.shared = SharedExpert(context, shared, f"{shared}_gate", hidden_size, moe.shared_intermediate_size)
        self.dispatch: Dispatch | None = None
        if context.ep > 1:
            self.dispatch = Dispatch(context.group, context.ep, moe.num_experts, moe.experts_per_token)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.dispatch is not None:
            out = self.dispatch(x, self.router, self.experts)
            return out if self.shared is None else out.add_(self.group.all_reduce(self.shared(x)))
        out = self.experts(x, *self.router(x))
        if self.shared is not None:
            out = out.add_(self.shared(x))
        return self.group.all_reduce(out)
