"""FlashInfer's attention and ops against those in plain torch, on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape
from gllm.layers.attention_backends.reference import ReferenceAttention
from gllm.layers.ops.torch_ops import TorchOps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(32, 8, 128), (28, 4, 128), (9, 3, 64), (14, 2, 64), (4, 4, 128)]
"""(query heads, KV heads, head_dim): Llama-3/Qwen3-8B/Mixtral, Qwen2-7B, SmolLM2-135M, Qwen2-0.5B, no grouping."""
SHAPES += [
    (32, 2, 128),
    (16, 1, 128),
    (8, 1, 128),
    (48, 8, 128),
    (16, 16, 128),
    (8, 8, 128),
    (32, 4, 128),
    (16, 2, 128),
]
"""GLM-4-9B and ChatGLM3-6B, whole and at tp 2 and 4 (also Qwen3-30B-A3B at tp 4); GLM-4-32B; Qwen2-MoE-A2.7B, whole and
at tp 2; Qwen3-30B-A3B, whole and at tp 2."""


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_attention_over_ragged_mixed_batches(heads: int, kv_heads: int, head_dim: int) -> None:
    from gllm.layers.attention_backends.flashinfer import FlashInferAttention

    device = torch.device("cuda", 0)
    shape = KVShape(
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=16,
        dtype=torch.bfloat16,
        device=device,
    )
    layers = [AttentionSpec(scale=head_dim**-0.5)]
    rng = np.random.default_rng(0)
    pages = rng.permutation(200).astype(np.int32)
    flash, reference = FlashInferAttention(shape, layers), ReferenceAttention(shape, layers)
    flash.allocate(200)
    reference.allocate(200)
    tables = pages.reshape(8, 25)
    kv_lens = np.zeros(8, np.int32)
    # Prompts in chunks, then decodes mixed with the chunks that are still coming.
    for query in ([17, 40, 1, 16, 100, 3, 64, 250], [1, 1, 1, 1, 33, 90, 128, 100], [1] * 8):
        query_lens = np.array(query, np.int32)
        kv_lens = kv_lens + query_lens
        batch = AttentionBatch(int((np.cumsum(query_lens != 1) == 0).sum()), query_lens, kv_lens, tables)
        n = batch.num_tokens
        qkv = torch.randn(n, heads + 2 * kv_heads, head_dim, device=device, dtype=torch.bfloat16)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        got = flash.prepare(batch).attend(0, q, k, v)
        expected = reference.prepare(batch).attend(0, q, k, v)
        torch.testing.assert_close(got.float(), expected.float(), atol=2e-2, rtol=2e-2)


def test_ops() -> None:
    from gllm.layers.ops.flashinfer_ops import FlashInferOps

    torch.manual_seed(0)
    flash, plain, device = FlashInferOps(), TorchOps(), torch.device("cuda", 0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=device, dtype=torch.bfloat16)

    def close(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.testing.assert_close(a.float(), b.float(), atol=3e-2, rtol=2e-2)

    x, residual, weight = random(37, 4096), random(37, 4096), random(4096)
    close(flash.rms_norm(x, weight, 1e-6), plain.rms_norm(x, weight, 1e-6))
    r1, r2 = residual.clone(), residual.clone()
    close(flash.add_rms_norm(x.clone(), r1, weight, 1e-6), plain.add_rms_norm(x.clone(), r2, weight, 1e-6))
    close(r1, r2)
    y = random(37, 1024)
    close(flash.gate(y, "silu"), plain.gate(y, "silu"))
    qkv = random(37, 48, 128)
    head_weight = random(128)
    q = qkv[:, :32]
    close(flash.rms_norm(q, head_weight, 1e-6), plain.rms_norm(q, head_weight, 1e-6))
    positions = torch.randint(0, 500, (37,), device=device)
    cos_sin = torch.randn(512, 128, device=device)
    # Whole heads, and the half of each that GLM rotates.
    for table in (cos_sin, torch.randn(512, 64, device=device)):
        a, b = qkv.clone(), qkv.clone()
        flash.rope(a[:, :32], a[:, 32:40], positions, table)
        plain.rope(b[:, :32], b[:, 32:40], positions, table)
        close(a, b)
