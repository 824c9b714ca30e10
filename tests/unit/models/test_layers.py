"""The reference operations and attention against transformers and first principles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape
from gllm.layers.attention_backends.reference import ReferenceAttention
from gllm.layers.ops.torch_ops import TorchOps
from gllm.layers.rotary import Rotary, inverse_frequencies
from gllm.models.config import RopeConfig

CPU = torch.device("cpu")
OPS = TorchOps()
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ROPES = [
    (RopeConfig(theta=500000.0), {"rope_type": "default", "rope_theta": 500000.0}),
    (RopeConfig(theta=1e5, kind="linear", factor=4.0), {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0}),
    (
        RopeConfig(theta=5e5, kind="llama3", factor=8.0),
        {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, **LLAMA3},
    ),
    (
        RopeConfig(theta=1e6, kind="yarn", factor=4.0, original_max_position=2250, attention_factor=1.138629436111989),
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 2250},
    ),
    (
        RopeConfig(
            kind="yarn",
            factor=2.5,
            original_max_position=512,
            attention_factor=0.8,
            beta_fast=16.0,
            beta_slow=2.0,
            truncate=False,
        ),
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 2.5,
            "original_max_position_embeddings": 512,
            "attention_factor": 0.8,
            "beta_fast": 16,
            "beta_slow": 2,
            "truncate": False,
        },
    ),
]


@pytest.mark.parametrize(("rope", "parameters"), ROPES, ids=lambda value: getattr(value, "kind", ""))
def test_rope_is_that_of_transformers_bit_for_bit(rope: RopeConfig, parameters: dict[str, object]) -> None:
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=2, max_position_embeddings=9000, rope_parameters=dict(parameters)
    )
    theirs = LlamaRotaryEmbedding(config)
    assert torch.equal(inverse_frequencies(rope, 128), theirs.inv_freq)
    rotary = Rotary(rope, 128)
    rotary.allocate(9000, CPU)
    assert rotary.cos_sin.shape == (9000, 128)
    assert rotary.cos_sin.nbytes == rotary.num_bytes(9000)
    positions = torch.tensor([0, 1, 77, 8999])
    q, k = torch.randn(4, 4, 128), torch.randn(4, 2, 128)
    cos, sin = theirs(q, positions[None])
    expected_q, expected_k = apply_rotary_pos_emb(q, k, cos[0], sin[0], unsqueeze_dim=1)
    OPS.rope(q, k, positions, rotary.cos_sin)
    assert torch.equal(q, expected_q)
    assert torch.equal(k, expected_k)


def test_rope_by_divisors() -> None:
    rope = RopeConfig(kind="factors", frequency_factors=(1.0, 2.0))
    assert torch.equal(inverse_frequencies(rope, 4), torch.tensor([1.0, 0.005]))


def test_rope_rotates_views_in_place_and_leaves_the_tail() -> None:
    fused = torch.randn(3, 5, 16)
    before = fused.clone()
    cos_sin = torch.cat((torch.zeros(9, 4), torch.ones(9, 4)), dim=1)
    OPS.rope(fused[:, :2], fused[:, 2:3], torch.tensor([1, 2, 8]), cos_sin)
    # A quarter turn: (a, b) -> (-b, a).
    assert torch.equal(fused[:, :3, :4], -before[:, :3, 4:8])
    assert torch.equal(fused[:, :3, 4:8], before[:, :3, :4])
    assert torch.equal(fused[:, :3, 8:], before[:, :3, 8:])
    assert torch.equal(fused[:, 3:], before[:, 3:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_are_those_of_transformers_bit_for_bit(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    torch.nn.init.normal_(norm.weight)
    weight = norm.weight.detach()
    x, residual = torch.randn(5, 64).to(dtype), torch.randn(5, 64).to(dtype)
    with torch.inference_mode():
        assert torch.equal(OPS.rms_norm(x, weight, 1e-5), norm(x))
        total = x + residual
        assert torch.equal(OPS.add_rms_norm(x, residual, weight, 1e-5), norm(total))
        assert torch.equal(residual, total)
        heads = torch.randn(5, 3, 128).to(dtype)[:, 1:, 64:]
        assert torch.equal(OPS.rms_norm(heads, weight, 1e-5), norm(heads))


def test_gate() -> None:
    x = torch.randn(4, 10)
    torch.testing.assert_close(OPS.gate(x, "silu"), x[:, :5] * torch.sigmoid(x[:, :5]) * x[:, 5:])


def make_attention(dtype: torch.dtype = torch.float32, num_pages: int = 12) -> ReferenceAttention:
    shape = KVShape(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, page_size=4, dtype=dtype, device=CPU)
    attention = ReferenceAttention(shape, [AttentionSpec(scale=8**-0.5)] * 2)
    attention.allocate(num_pages)
    return attention


def batch_of(query_lens: list[int], kv_lens: list[int], tables: list[list[int]]) -> AttentionBatch:
    arrays = [np.array(values, np.int32) for values in (query_lens, kv_lens, tables)]
    return AttentionBatch(query_lens.count(1), *arrays)


def test_attention_is_causal_softmax() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(7, 4, 8), torch.randn(7, 2, 8), torch.randn(7, 2, 8)
    attention = make_attention()
    # Tokens 0-4, then 5-6, in scattered pages of the second layer.
    for start, end in ((0, 5), (5, 7)):
        metadata = attention.prepare(batch_of([end - start], [end], [[9, 2]]))
        actual = metadata.attend(1, q[start:end], k[start:end], v[start:end])
        for i in range(start, end):
            for head in range(4):
                keys, values = k[: i + 1, head // 2], v[: i + 1, head // 2]
                expected = torch.softmax(keys @ q[i, head] * 8**-0.5, dim=0) @ values
                torch.testing.assert_close(actual[i - start].view(4, 8)[head], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lens = [1, 1, 5, 3]
    contexts = [4, 9, 6, 3]
    tables = [[0, 10**9, 10**9], [5, 1, 7], [2, 3, 10**9], [4, -1, -1]]
    fused = torch.randn(sum(lens), 8, 8).to(dtype)
    q, k, v = fused.split([4, 2, 2], dim=1)
    together = make_attention(dtype)
    out = together.prepare(batch_of(lens, contexts, tables)).attend(0, q, k, v)
    assert out.shape == (10, 32)
    assert out.is_contiguous()
    start = 0
    for query_len, context, table in zip(lens, contexts, tables, strict=True):
        alone = make_attention(dtype)
        row = slice(start, start + query_len)
        metadata = alone.prepare(batch_of([query_len], [context], [table]))
        assert torch.equal(metadata.attend(0, q[row], k[row], v[row]), out[row])
        start += query_len


def test_metadata_of_two_steps_exist_at_once() -> None:
    """Two micro-batches in flight: both are prepared before either runs."""
    torch.manual_seed(0)
    q, k, v = torch.randn(6, 4, 8), torch.randn(6, 2, 8), torch.randn(6, 2, 8)
    attention, other = make_attention(), make_attention()
    first, second = (attention.prepare(batch_of([3], [3], [[page]])) for page in (1, 6))
    outs = [one.attend(0, q[at], k[at], v[at]) for at, one in ((slice(3), first), (slice(3, 6), second))]
    both = other.prepare(batch_of([3, 3], [3, 3], [[1], [6]])).attend(0, q, k, v)
    assert torch.equal(torch.cat(outs), both)
