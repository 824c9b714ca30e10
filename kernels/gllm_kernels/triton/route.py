"""Softmax over the experts and the k most likely of them, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gllm_kernels.triton.launch import Launcher


@triton.jit
def _route(
    logits,
    chosen,
    weights,
    NUM: tl.constexpr,
    K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    TOP: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, WIDTH)
    nth = tl.arange(0, TOP)
    value = tl.load(logits + token * NUM + expert, mask=expert < NUM, other=float("-inf")).to(tl.float32)
    value = tl.exp(value - tl.max(value, axis=0))
    value = value / tl.sum(value, axis=0)
    best = tl.zeros((TOP,), tl.float32)
    index = tl.zeros((TOP,), tl.int32)
    for step in tl.static_range(K):
        largest = tl.max(value, axis=0)
        # The first of equal values, so that routing is deterministic.
        found = tl.min(tl.where(value == largest, expert, WIDTH), axis=0)
        best = tl.where(nth == step, largest, best)
        index = tl.where(nth == step, found, index)
        value = tl.where(expert == found, -1.0, value)
    if RENORMALIZE:
        best = best / tl.sum(best, axis=0)
    tl.store(chosen + token * K + nth, index, mask=nth < K)
    tl.store(weights + token * K + nth, best, mask=nth < K)


_launch = Launcher(_route)


def route(logits: torch.Tensor, k: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """logits: [n, num_experts] of any float type; returns (experts [n, k] int32, weights [n, k] float32)."""
    n, num = logits.shape
    chosen = torch.empty(n, k, dtype=torch.int32, device=logits.device)
    weights = torch.empty(n, k, dtype=torch.float32, device=logits.device)
    constants = {
        "NUM": num,
        "K": k,
        "RENORMALIZE": renormalize,
        "WIDTH": triton.next_power_of_2(num),
        "TOP": triton.next_power_of_2(k),
    }
    key = (logits.dtype, num, k, renormalize, logits.data_ptr() % 16 == 0)
    _launch(key, (n, 1, 1), (logits, chosen, weights), constants, num_warps=1)
    return chosen, weights
