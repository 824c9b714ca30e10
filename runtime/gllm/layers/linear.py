"""Matrix products: what is fused, and along which dimension each is divided between ranks."""

from __future__ import annotations

import torch

from gllm.layers.ops import Ops
from gllm.layers.parameter import Layer, Parameter, ShardDim


class Linear(Layer):
    """x [n, in] -> [n, out]; `parts` are (checkpoint prefix, rows) whose outputs lie side by side."""

    def __init__(self, ops: Ops, *parts: tuple[str, int], in_size: int, bias: bool, shard_dim: ShardDim | None) -> None:
        self.ops = ops
        weights = [(f"{prefix}.weight", rows) for prefix, rows in parts]
        self.weight = Parameter(*weights, columns=in_size, shard_dim=shard_dim, linear=True)
        self.bias: Parameter | None = None
        if bias:
            biases = [(f"{prefix}.bias", rows) for prefix, rows in parts]
            # A product divided along its input adds its bias once, after the sum over ranks.
            self.bias = Parameter(*biases, shard_dim=0 if shard_dim == 0 else None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.linear(x, self.weight.data, None if self.bias is None else self.bias.data)


class QKVLinear(Linear):
    """Queries, keys and values in one product: [n, (num_heads + 2 * num_kv_heads) * head_dim]."""

    def __init__(
        self, ops: Ops, prefix: str, hidden_size: int, num_heads: int, num_kv_heads: int, head_dim: int, bias: bool
    ) -> None:
        super().__init__(
            ops,
            (f"{prefix}.q_proj", num_heads * head_dim),
            (f"{prefix}.k_proj", num_kv_heads * head_dim),
            (f"{prefix}.v_proj", num_kv_heads * head_dim),
            in_size=hidden_size,
            bias=bias,
            shard_dim=0,
        )


class GateUpLinear(Linear):
    """Both inputs of the gated activation in one product, and the activation: [n, intermediate]."""

    def __init__(self, ops: Ops, prefix: str, hidden_size: int, intermediate_size: int, bias: bool) -> None:
        super().__init__(
            ops,
            (f"{prefix}.gate_proj", intermediate_size),
            (f"{prefix}.up_proj", intermediate_size),
            in_size=hidden_size,
            bias=bias,
            shard_dim=0,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.linear_silu_and_mul(x, self.weight.data, None if self.bias is None else self.bias.data)


class OutputLinear(Linear):
    """Back to the residual stream: o_proj and down_proj, divided along their input."""

    def __init__(self, ops: Ops, prefix: str, in_size: int, hidden_size: int, bias: bool) -> None:
        super().__init__(ops, (prefix, hidden_size), in_size=in_size, bias=bias, shard_dim=1)
