"""Compare the speed of the CPU kernels with torch's, for the shapes of a 135M Llama (SmolLM2).

    python benchmarks/cpu_kernels.py [--threads 2] [--dtype bfloat16] [--repeat 30]

Every figure is the best of `--repeat` calls, which limits the effect of other load. Calls take their weights in turn
from a pool larger than the last-level cache, so the weights come from memory as in a decode step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from gllm.layers.attention_backends.backend import AttentionBatch, AttentionSpec, KVShape
from gllm.layers.attention_backends.native import NativeAttention
from gllm.layers.ops.native_ops import NativeOps
from gllm_kernels import cpu

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS, VOCAB = 576, 9, 3, 64, 1536, 30, 49152
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
LAYER_SHAPES = {
    "qkv": (QKV, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_up": (2 * INTERMEDIATE, HIDDEN),
    "down": (HIDDEN, INTERMEDIATE),
}
POOL_BYTES = 96 << 20


def best(call: Callable[[int], object], repeat: int) -> float:
    """Return the seconds of the fastest of `repeat` calls; `call` gets the number of the call."""
    fastest = float("inf")
    for i in range(repeat + 2):
        start = time.perf_counter()
        call(i)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def bench_linear(ops: NativeOps, dtype: torch.dtype, sizes: list[int], repeat: int) -> None:
    print(f"{'linear':8} {'n':>5} {'native us':>10} {'GFLOP/s':>8} {'GB/s':>6} {'torch us':>10} {'GFLOP/s':>8}")
    for name, (out, inner) in {**LAYER_SHAPES, "lm_head": (VOCAB, HIDDEN)}.items():
        count = max(1, POOL_BYTES // (out * inner * dtype.itemsize))
        weights = [torch.randn(out, inner).mul_(0.02).to(dtype) for _ in range(count)]
        packed = [ops.pack_linear(w) for w in weights]
        run = ops.linear_f32 if name == "lm_head" else lambda x, w: ops.linear(x, w, None)
        for n in sizes:
            x = torch.randn(n, inner).to(dtype)
            ours = best(lambda i, x=x, packed=packed, run=run: run(x, packed[i % len(packed)]), repeat)
            torchs = best(lambda i, x=x, weights=weights: F.linear(x, weights[i % len(weights)]), repeat)
            flop, size = 2.0 * n * out * inner, out * inner * dtype.itemsize
            print(
                f"{name:8} {n:5} {ours * 1e6:10.1f} {flop / ours / 1e9:8.1f} {size / ours / 1e9:6.1f} "
                f"{torchs * 1e6:10.1f} {flop / torchs / 1e9:8.1f}"
            )


def make_attention(num_layers: int, dtype: torch.dtype, num_pages: int) -> NativeAttention:
    """Return attention over a pool that was written: unwritten pages are all one page of zeros, which stays cached."""
    shape = KVShape(
        num_layers=num_layers,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        page_size=16,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    attention = NativeAttention(shape, [AttentionSpec(scale=HEAD_DIM**-0.5)] * num_layers)
    attention.allocate(num_pages)
    attention.pool.view(dtype).fill_(0.5)
    return attention


def bench_attention(dtype: torch.dtype, repeat: int) -> None:
    layers = 8
    cases = [("decode", rows, 1, context) for rows in (1, 16, 128) for context in (128, 512, 2048)]
    cases += [("prefill", 1, 512, 512), ("prefill", 1, 2048, 2048), ("prefill", 1, 512, 4096), ("prefill", 8, 256, 256)]
    print(f"{'attention':9} {'rows':>5} {'new':>5} {'context':>8} {'us':>10} {'GFLOP/s':>8} {'GB/s':>6}")
    for kind, rows, new, context in cases:
        pages = -(-context // 16)
        backend = make_attention(layers, dtype, rows * pages)
        tables = np.random.default_rng(0).permutation(rows * pages).astype(np.int32).reshape(rows, pages)
        batch = AttentionBatch(
            rows if kind == "decode" else 0,
            np.full(rows, new, np.int32),
            np.full(rows, context, np.int32),
            tables,
        )
        step = backend.prepare(batch)
        qkv = torch.randn(rows * new, HEADS + 2 * KV_HEADS, HEAD_DIM).to(dtype)
        q, k, v = qkv.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        seconds = best(lambda i, step=step, q=q, k=k, v=v: step.attend(i % layers, q, k, v), repeat)
        keys = rows * sum(range(context - new + 1, context + 1))
        flop = 4.0 * keys * HEADS * HEAD_DIM
        size = 2.0 * rows * context * KV_HEADS * HEAD_DIM * dtype.itemsize
        print(
            f"{kind:9} {rows:5} {new:5} {context:8} {seconds * 1e6:10.1f} {flop / seconds / 1e9:8.1f} "
            f"{size / seconds / 1e9:6.1f}"
        )


def bench_step(ops: NativeOps, dtype: torch.dtype, repeat: int) -> None:
    """Time all kernel calls of a decode step, from the first norm to the argmax: a lower bound of a worker's step."""
    weights = [
        {name: ops.pack_linear(torch.randn(shape).mul_(0.02).to(dtype)) for name, shape in LAYER_SHAPES.items()}
        for _ in range(LAYERS)
    ]
    head = ops.pack_linear(torch.randn(VOCAB, HIDDEN).mul_(0.02).to(dtype))
    norm = torch.ones(HIDDEN, dtype=dtype)
    cos_sin = torch.randn(8192, HEAD_DIM)
    total = sum(w.nbytes for layer in weights for w in layer.values()) + head.nbytes
    print(f"{'step':6} {'rows':>5} {'context':>8} {'ms':>8} {'tok/s':>8} {'GB/s':>6} {'GFLOP/s':>8}")
    for rows, context in ((1, 128), (1, 1024), (8, 256), (32, 256), (128, 256), (256, 256)):
        pages = -(-context // 16)
        backend = make_attention(LAYERS, dtype, rows * pages)
        tables = np.random.default_rng(0).permutation(rows * pages).astype(np.int32).reshape(rows, pages)
        batch = AttentionBatch(rows, np.ones(rows, np.int32), np.full(rows, context, np.int32), tables)
        positions = torch.full((rows,), context - 1)
        start = torch.randn(rows, HIDDEN).to(dtype)

        def step(
            _: int,
            backend: NativeAttention = backend,
            batch: AttentionBatch = batch,
            positions: torch.Tensor = positions,
            start: torch.Tensor = start,
        ) -> torch.Tensor:
            metadata = backend.prepare(batch)
            residual = start.clone()
            x = ops.rms_norm(residual, norm, 1e-5)
            for index, layer in enumerate(weights):
                heads = ops.linear(x, layer["qkv"], None).view(-1, HEADS + 2 * KV_HEADS, HEAD_DIM)
                q, k, v = torch.split(heads, [HEADS, KV_HEADS, KV_HEADS], dim=1)
                ops.rope(q, k, positions, cos_sin)
                x = ops.linear(metadata.attend(index, q, k, v), layer["o_proj"], None)
                x = ops.add_rms_norm(x, residual, norm, 1e-5)
                x = ops.linear(ops.gate(ops.linear(x, layer["gate_up"], None), "silu"), layer["down"], None)
                x = ops.add_rms_norm(x, residual, norm, 1e-5)
            return ops.argmax(ops.linear_f32(x, head))

        seconds = best(step, max(5, repeat // 3))
        flop = total / dtype.itemsize * 2.0 * rows
        rates = f"{rows / seconds:8.0f} {total / seconds / 1e9:6.1f} {flop / seconds / 1e9:8.1f}"
        print(f"{'decode':6} {rows:5} {context:8} {seconds * 1e3:8.2f} {rates}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    parser.add_argument("--only", choices=["linear", "attention", "step"])
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    # torch's own threads compute the columns for comparison, and sleep while our kernels run.
    torch.set_num_threads(args.threads)
    ops = NativeOps()
    cpu.set_num_threads(args.threads)
    print(f"kernels {cpu.isa()}, {args.threads} threads, {args.dtype}")
    with torch.inference_mode():
        if args.only in (None, "linear"):
            bench_linear(ops, dtype, args.rows, args.repeat)
        if args.only in (None, "attention"):
            bench_attention(dtype, args.repeat)
        if args.only in (None, "step"):
            bench_step(ops, dtype, args.repeat)


if __name__ == "__main__":
    main()
