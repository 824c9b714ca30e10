"""Matrix products: what is fused, and along which dimension each is divided between ranks.

The scheme is Megatron's (arXiv 1909.08053): products into heads and into the MLP are divided by output, those back
to the residual stream by input, so that a block needs one sum over ranks.
"""

from __future__ import annotations

import torch

from gllm.layers.context import LayerContext
from gllm.layers.parameter import ALL, Layer, Parameter, Part
from gllm.parallel.layout import kv_head_slice, rank_slice


def scaled(piece: slice, factor: int) -> slice:
    """The rows of heads `piece`, each of `factor` rows."""
    return slice(piece.start * factor, piece.stop * factor)


class Linear(Layer):
    """x [n, in] -> [n, out]; the outputs of the parts lie side by side."""

    def __init__(self, context: LayerContext, weights: list[Part], biases: list[Part]) -> None:
        self.ops = context.ops
        self.weight = Parameter(*weights, linear=True)
        self.bias = Parameter(*biases) if biases else None

    @property
    def _bias(self) -> torch.Tensor | None:
        return None if self.bias is None else self.bias.data

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.linear(x, self.weight.data, self._bias)


class ColumnLinear(Linear):
    """Divided by output: each rank holds `rows` of each (checkpoint prefix, rows in the checkpoint, rows held)."""

    def __init__(self, context: LayerContext, *pieces: tuple[str, int, slice], in_size: int, bias: bool) -> None:
        super().__init__(
            context,
            [Part(f"{prefix}.weight", (size, in_size), rows) for prefix, size, rows in pieces],
            [Part(f"{prefix}.bias", (size,), rows) for prefix, size, rows in pieces] if bias else [],
        )


class QKVLinear(ColumnLinear):
    """Queries, keys and values of this rank's heads in one product: [n, (num_heads + 2 * num_kv_heads) * head_dim].

    `num_heads` and `num_kv_heads` are the whole model's; the attributes of the same name are this rank's.
    """

    def __init__(
        self,
        context: LayerContext,
        prefix: str,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        bias: bool,
    ) -> None:
        group = context.group
        heads = rank_slice(num_heads, group.size, group.rank)
        kv_heads = kv_head_slice(num_kv_heads, group.size, group.rank)
        self.num_heads = heads.stop - heads.start
        self.num_kv_heads = kv_heads.stop - kv_heads.start
        keys = scaled(kv_heads, head_dim)
        super().__init__(
            context,
            (f"{prefix}.q_proj", num_heads * head_dim, scaled(heads, head_dim)),
            (f"{prefix}.k_proj", num_kv_heads * head_dim, keys),
            (f"{prefix}.v_proj", num_kv_heads * head_dim, keys),
            in_size=hidden_size,
            bias=bias,
        )


class GateUpLinear(ColumnLinear):
    """Both inputs of the gated activation in one product, and the activation: [n, this rank's intermediate]."""

    def __init__(
        self, context: LayerContext, prefix: str, hidden_size: int, intermediate_size: int, bias: bool
    ) -> None:
        rows = rank_slice(intermediate_size, context.group.size, context.group.rank)
        super().__init__(
            context,
            (f"{prefix}.gate_proj", intermediate_size, rows),
            (f"{prefix}.up_proj", intermediate_size, rows),
            in_size=hidden_size,
            bias=bias,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.linear_silu_and_mul(x, self.weight.data, self._bias)


class OutputLinear(Linear):
    """Back to the residual stream: o_proj and down_proj, divided by input and summed over ranks.

    The bias is the first rank's, so that the sum has it once.
    """

    def __init__(self, context: LayerContext, prefix: str, in_size: int, hidden_size: int, bias: bool) -> None:
        self.group = group = context.group
        columns = rank_slice(in_size, group.size, group.rank)
        super().__init__(
            context,
            [Part(f"{prefix}.weight", (hidden_size, in_size), ALL, columns)],
            [Part(f"{prefix}.bias", (hidden_size,))] if bias and group.rank == 0 else [],
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.all_reduce(super().__call__(x))
