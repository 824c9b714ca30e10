"""Self-attention of a decoder layer around a paged backend."""

from __future__ import annotations

import torch

from gllm.layers.attention_backends.backend import AttentionSpec
from gllm.layers.context import LayerContext
from gllm.layers.linear import OutputLinear, QKVLinear
from gllm.layers.norm import RMSNorm
from gllm.layers.parameter import Layer, pairs_to_halves
from gllm.layers.rotary import Rotary
from gllm.layers.step import Step
from gllm.models.config import ModelConfig


class Attention(Layer):
    """Fused qkv, norms of each query and key head if there are any, rope, paged attention, output product.

    `layer` is the index of its pages in the backend's pool. The config's sizes are the whole model's; a rank computes
    its share of the heads. `fused` is the checkpoint's one tensor of queries, keys and values, where it has one;
    `interleaved`: the checkpoint pairs neighbours among the rotary dimensions (`pairs_to_halves`).
    """

    def __init__(
        self,
        context: LayerContext,
        prefix: str,
        config: ModelConfig,
        *,
        layer: int,
        rotary: Rotary,
        bias: bool,
        out_bias: bool,
        qk_norm: bool = False,
        fused: str = "",
        out: str = "o_proj",
        interleaved: bool = False,
        spec: AttentionSpec | None = None,
    ) -> None:
        """spec: the attention that the backend computes; None: softmax with the scale head_dim ** -0.5."""
        self.ops = context.ops
        self.layer = layer
        self.rotary = rotary
        self.head_dim = head_dim = config.head_dim
        self.spec = spec or AttentionSpec(scale=head_dim**-0.5)
        size, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
        transform = pairs_to_halves(head_dim, rotary.dim) if interleaved else None
        self.qkv = QKVLinear(context, prefix, size, heads, kv_heads, head_dim, bias, fused, transform)
        self.num_heads, self.num_kv_heads = self.qkv.num_heads, self.qkv.num_kv_heads
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if qk_norm:
            self.q_norm = RMSNorm(context, f"{prefix}.q_norm", head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(context, f"{prefix}.k_norm", head_dim, config.rms_norm_eps)
        self.out = OutputLinear(context, f"{prefix}.{out}", heads * head_dim, size, out_bias)

    def __call__(self, x: torch.Tensor, step: Step, indices: torch.Tensor | None = None) -> torch.Tensor:
        """x: [n, hidden]. Returns [n, hidden], or [r, hidden]: only the rows at `indices` [r]."""
        heads = self.qkv(x).view(-1, self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        q, k, v = torch.split(heads, [self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        self.ops.rope(q, k, step.positions, self.rotary.cos_sin)
        attended = step.attention.attend(self.layer, q, k, v)
        return self.out(attended if indices is None else attended[indices])
