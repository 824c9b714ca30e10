"""The C++ paged attention against float64 attention over plain tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape
from gllm.layers.attention_backends.native import NativeAttention
from gllm_kernels import cpu

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
# bf16: keys, values and queries are exact; the softmax weights and the result are rounded.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


class Sequences:
    """Random sequences whose attention is computed step by step in a paged pool of one layer."""

    def __init__(
        self,
        lens: list[int],
        dtype: torch.dtype,
        *,
        heads: int = 6,
        kv_heads: int = 2,
        head_dim: int = 64,
        page_size: int = 16,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.heads, self.kv_heads, self.page_size = heads, kv_heads, page_size
        self.shape = KVShape(
            num_layers=2,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            page_size=page_size,
            dtype=dtype,
            device=torch.device("cpu"),
        )
        # Slices of one fused product, as a model has them.
        self.fused = [torch.randn(n, heads + 2 * kv_heads, head_dim, generator=generator).to(dtype) for n in lens]
        self.pages = -(-max(lens) // page_size)
        used = np.random.default_rng(seed).permutation(len(lens) * self.pages).astype(np.int32)
        self.tables = used.reshape(len(lens), self.pages)
        self.done = [0] * len(lens)
        self.backend = NativeAttention(self.shape, [AttentionSpec(scale=head_dim**-0.5)] * 2)
        self.backend.allocate(len(lens) * self.pages)
        # As in a pool that was used before: no result may show the old values.
        self.backend.pool.view(dtype).fill_(float("nan"))

    def step(self, *rows: tuple[int, int]) -> list[torch.Tensor]:
        """Attends the next `count` tokens of each (sequence, count); rows of one token come first, as decodes."""
        decodes = sum(count == 1 for _, count in rows)
        assert all(count == 1 for _, count in rows[:decodes])
        query_lens = np.array([count for _, count in rows], np.int32)
        kv_lens = np.array([self.done[s] + count for s, count in rows], np.int32)
        batch = AttentionBatch(decodes, query_lens, kv_lens, self.tables[[s for s, _ in rows]])
        fused = torch.cat([self.fused[s][self.done[s] : self.done[s] + count] for s, count in rows])
        q, k, v = fused.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        out = self.backend.prepare(batch).attend(1, q, k, v)
        for s, count in rows:
            self.done[s] += count
        return list(out.split(query_lens.tolist()))

    def reference(self, sequence: int) -> torch.Tensor:
        """[tokens, heads * head_dim] in float64."""
        q, k, v = (
            part.transpose(0, 1).double()
            for part in self.fused[sequence].split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        )
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)
        return attended[0].transpose(0, 1).flatten(1)


def assert_near(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), want, rtol=TOLERANCE[got.dtype], atol=TOLERANCE[got.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 4, 16, 32, 128])
def test_ragged_prompts_in_shuffled_pages(dtype: torch.dtype, page_size: int) -> None:
    lens = [1, 2, 15, 16, 17, 63, 100, 300]
    sequences = Sequences(lens, dtype, page_size=page_size)
    for s, got in enumerate(sequences.step(*enumerate(lens))):
        assert_near(got, sequences.reference(s))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(1, 1, 16), (9, 3, 64), (4, 1, 80), (2, 2, 96), (8, 2, 128), (50, 1, 16), (1, 1, 256)],
)
def test_head_shapes(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> None:
    sequences = Sequences([70, 33], dtype, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    for s, got in enumerate(sequences.step((0, 70), (1, 33))):
        assert_near(got, sequences.reference(s))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [2, 16])
def test_chunks_and_decodes_give_the_same_bits_as_a_whole_prompt(dtype: torch.dtype, page_size: int) -> None:
    lens = [40, 700]
    whole = Sequences(lens, dtype, page_size=page_size)
    first, second = whole.step((0, 40), (1, 700))
    cut = Sequences(lens, dtype, page_size=page_size)
    got: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    steps = [
        [(1, 7)],
        [(0, 31), (1, 250)],
        [(0, 1), (1, 3)],  # across the end of a segment
        *[[(0, 1), (1, 1)]] * 8,
        [(1, 400)],
        *[[(1, 1)]] * 32,
    ]
    for rows in steps:
        for (s, _), out in zip(rows, cut.step(*rows), strict=True):
            got[s].append(out)
    assert torch.cat(got[0]).equal(first)
    assert torch.cat(got[1]).equal(second)


@pytest.mark.parametrize("dtype", DTYPES)
def test_page_size_does_not_change_a_bit(dtype: torch.dtype) -> None:
    results = [Sequences([90], dtype, page_size=page_size).step((0, 90))[0] for page_size in (1, 8, 16, 64)]
    assert all(result.equal(results[0]) for result in results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_and_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    def decode(neighbours: int, threads: int) -> torch.Tensor:
        cpu.set_num_threads(threads)
        lens = [600] + [50] * neighbours
        sequences = Sequences(lens, dtype)
        sequences.fused[0] = torch.randn(600, 10, 64, generator=torch.Generator().manual_seed(9)).to(dtype)
        sequences.step(*enumerate(n - 1 for n in lens))
        return sequences.step(*[(s, 1) for s in range(len(lens))])[0]

    alone = decode(0, 1)
    assert decode(0, 2).equal(alone)
    assert decode(0, 7).equal(alone)
    assert decode(1, 2).equal(alone)
    assert decode(30, 2).equal(alone)


def test_nan_in_one_row_does_not_reach_other_rows() -> None:
    lens = [20, 20]
    clean, dirty = Sequences(lens, torch.bfloat16), Sequences(lens, torch.bfloat16)
    dirty.fused[1].fill_(float("nan"))
    assert dirty.step((0, 20), (1, 20))[0].equal(clean.step((0, 20), (1, 20))[0])


def test_metadata_outlives_the_arrays_it_was_made_from() -> None:
    sequences = Sequences([20], torch.float32)
    tables, lens = sequences.tables.copy(), np.array([20], np.int32)
    first = sequences.backend.prepare(AttentionBatch(0, lens, lens, tables))
    second = sequences.backend.prepare(AttentionBatch(0, lens, lens, tables))
    tables[:], lens[:] = 0, 0
    q, k, v = sequences.fused[0].split([6, 2, 2], dim=1)
    assert_near(first.attend(0, q, k, v), sequences.reference(0))
    assert_near(second.attend(1, q, k, v), sequences.reference(0))


def test_large_scores_do_not_overflow() -> None:
    sequences = Sequences([80], torch.float32)
    sequences.fused[0] *= 100
    assert_near(sequences.step((0, 80))[0], sequences.reference(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 40}, "head_dim 40: .* multiple of 16 up to 256"),
        ({"head_dim": 272}, "head_dim 272: .* multiple of 16 up to 256"),
        ({"num_heads": 7}, "num_heads 7 must be num_kv_heads 2 times"),
        ({"page_size": 12}, "page_size 12: .* power of two"),
        ({"dtype": torch.float16}, "dtype: .* float16"),
        ({"device": torch.device("cuda")}, "works on the CPU, not on cuda"),
    ],
)
def test_unsupported_shapes_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    shape: dict[str, Any] = {
        "num_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 64,
        "page_size": 16,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
    }
    with pytest.raises(ValueError, match=message):
        NativeAttention(KVShape(**(shape | change)), [AttentionSpec(scale=0.125)])
