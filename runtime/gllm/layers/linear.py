"""Matrix products: what is fused, and along which dimension each is divided between ranks.

The scheme is Megatron's (arXiv 1909.08053): products into heads and into the MLP are divided by output, products back
to the residual stream by input, so that a block needs one all-reduce.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gllm.layers.context import LayerContext
from gllm.layers.ops.protocols import Activation
from gllm.layers.parameter import ALL, CheckpointSlice, Layer, Parameter, Transform
from gllm.parallel.layout import kv_head_slice, rank_slice


def scaled(piece: slice, factor: int, first: int = 0) -> slice:
    """Return the rows of the heads `piece`. Each head has `factor` rows, and head 0 begins at row `first`."""
    return slice(first + piece.start * factor, first + piece.stop * factor)


@dataclass(frozen=True, slots=True)
class Rows:
    """Outputs of a product: some rows of a tensor of the checkpoint."""

    prefix: str
    size: int
    """Rows of the tensor."""
    held: slice
    """The rows of the tensor that this rank holds."""
    transform: Transform | None = None


class Linear(Layer):
    """x [n, in] -> [n, out]; the outputs of the slices lie side by side."""

    def __init__(self, context: LayerContext, weights: list[CheckpointSlice], biases: list[CheckpointSlice]) -> None:
        self.ops = context.ops
        self.weight = Parameter(*weights, linear=True)
        self.bias = Parameter(*biases) if biases else None

    @property
    def _bias(self) -> torch.Tensor | None:
        return None if self.bias is None else self.bias.data

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.linear(x, self.weight.data, self._bias)


class ColumnLinear(Linear):
    """Divided by output: each rank holds some rows of each piece."""

    def __init__(self, context: LayerContext, *pieces: Rows, in_size: int, bias: bool) -> None:
        super().__init__(
            context,
            [CheckpointSlice(f"{p.prefix}.weight", (p.size, in_size), p.held, transform=p.transform) for p in pieces],
            [CheckpointSlice(f"{p.prefix}.bias", (p.size,), p.held, transform=p.transform) for p in pieces if bias],
        )


class QKVLinear(ColumnLinear):
    """Queries, keys and values of this rank's heads in one product: [n, (num_heads + 2 * num_kv_heads) * head_dim].

    `num_heads` and `num_kv_heads` are the whole model's; the attributes of the same name are this rank's.
    fused: the checkpoint's one tensor with the rows of all three; empty: q_proj, k_proj and v_proj.
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
        fused: str = "",
        transform: Transform | None = None,
    ) -> None:
        group = context.group
        heads = rank_slice(num_heads, group.size, group.rank)
        kv_heads = kv_head_slice(num_kv_heads, group.size, group.rank)
        self.num_heads = heads.stop - heads.start
        self.num_kv_heads = kv_heads.stop - kv_heads.start
        queries, keys = num_heads * head_dim, num_kv_heads * head_dim
        if fused:
            name, size = f"{prefix}.{fused}", queries + 2 * keys
            pieces = (
                Rows(name, size, scaled(heads, head_dim), transform),
                Rows(name, size, scaled(kv_heads, head_dim, queries), transform),
                Rows(name, size, scaled(kv_heads, head_dim, queries + keys)),
            )
        else:
            pieces = (
                Rows(f"{prefix}.q_proj", queries, scaled(heads, head_dim), transform),
                Rows(f"{prefix}.k_proj", keys, scaled(kv_heads, head_dim), transform),
                Rows(f"{prefix}.v_proj", keys, scaled(kv_heads, head_dim)),
            )
        super().__init__(context, *pieces, in_size=hidden_size, bias=bias)


class GateUpLinear(ColumnLinear):
    """Both inputs of the gated activation in one product, and the activation: [n, this rank's intermediate].

    fused: the checkpoint's one tensor with the rows of both; empty: gate_proj and up_proj.
    """

    def __init__(
        self,
        context: LayerContext,
        prefix: str,
        hidden_size: int,
        intermediate_size: int,
        bias: bool,
        activation: Activation,
        fused: str = "",
    ) -> None:
        self.activation = activation
        size = intermediate_size
        rows = rank_slice(size, context.group.size, context.group.rank)
        if fused:
            name = f"{prefix}.{fused}"
            pieces = (Rows(name, 2 * size, rows), Rows(name, 2 * size, slice(size + rows.start, size + rows.stop)))
        else:
            pieces = (Rows(f"{prefix}.gate_proj", size, rows), Rows(f"{prefix}.up_proj", size, rows))
        super().__init__(context, *pieces, in_size=hidden_size, bias=bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.gated_linear(x, self.weight.data, self._bias, self.activation)


class OutputLinear(Linear):
    """Back to the residual stream: o_proj and down_proj, divided by input and summed over ranks.

    The bias is the first rank's, so that the sum has it once. `partial` leaves the all-reduce to the caller.
    """

    def __init__(
        self, context: LayerContext, prefix: str, in_size: int, hidden_size: int, bias: bool, partial: bool = False
    ) -> None:
        self.group = group = context.group
        self.partial = partial
        columns = rank_slice(in_size, group.size, group.rank)
        super().__init__(
            context,
            [CheckpointSlice(f"{prefix}.weight", (hidden_size, in_size), ALL, columns)],
            [CheckpointSlice(f"{prefix}.bias", (hidden_size,))] if bias and group.rank == 0 else [],
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = super().__call__(x)
        return out if self.partial else self.group.all_reduce(out)
