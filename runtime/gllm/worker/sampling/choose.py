"""Draws one token per row from logits, by inverse transform from the filtered distribution.

The uniform numbers come from a counter-based generator without state: the draw for the k-th output token of a request
depends on (seed, k) only. It is the same alone, in a batch, after a preemption and after a restart, and it is known
before the step runs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

CANDIDATES = 1024
"""Number of most likely tokens that are tried before a full sort: top-k and top-p nearly always end among them."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def choose(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
    *,
    filtered: bool,
    largest_k: int = 0,
) -> torch.Tensor:
    """Draw one token per row.

    logits: [rows, vocab] float32; temperature (> 0), top_p, min_p: [rows] float32; top_k: [rows] int64, 0 keeps
    all; uniforms: [rows] float64 in [0, 1). filtered: whether some row has a top_k, top_p or min_p. largest_k: the
    largest top_k, which the host knows without waiting for the device. Returns [rows] int64.

    top_k is applied first, then top_p to the renormalised rest, then min_p relative to the most likely token. The draw
    goes over tokens from the most likely down.
    """
    scaled = logits / temperature[:, None]
    if not filtered:
        # Nothing here mixes rows, so a row's draw does not depend on the other rows.
        cumulative = torch.softmax(scaled, dim=-1, dtype=torch.float32).cumsum(-1, dtype=torch.float64)
        return _invert(cumulative, uniforms)
    vocab = logits.shape[-1]
    log_total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    # All of a row's top_k must be among the candidates: top_p is a share of their mass.
    width = min(max(CANDIDATES, largest_k), vocab)
    while True:
        values, tokens = scaled.topk(width, dim=-1)
        probabilities = (values - log_total).exp()
        ranks = torch.arange(width, device=logits.device)
        keep = ranks[None, :] < torch.where(top_k == 0, vocab, top_k)[:, None]
        in_k = torch.where(keep, probabilities, 0)
        # The mass that top_k leaves. Without a top_k it is everything, including the tokens outside the candidates.
        mass = torch.where((top_k == 0)[:, None], 1.0, in_k.sum(-1, keepdim=True)).double()
        cumulative = in_k.cumsum(-1, dtype=torch.float64)
        # A token stays while the mass before it is below top_p; rank 0 always stays.
        before = cumulative - in_k
        keep &= (before < top_p[:, None].double() * mass) | (ranks == 0)[None, :]
        keep &= probabilities >= min_p[:, None] * probabilities[:, :1]
        if width == vocab or not bool(keep[:, -1].any()):
            break
        width = vocab
    cumulative = torch.where(keep, probabilities, 0).cumsum(-1, dtype=torch.float64)
    return tokens.gather(1, _invert(cumulative, uniforms)[:, None])[:, 0]


def _invert(cumulative: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the first index whose cumulative mass exceeds uniform * total: [rows] int64."""
    threshold = uniforms.to(cumulative.device) * cumulative[:, -1]
    index = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
    # Rounding may put the threshold at the total. Then the last index that has any mass is taken.
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.minimum(index, last)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def uniform(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1) with 53 random bits, [rows]. seeds, positions (of the output token): [rows]."""
    with np.errstate(over="ignore"):
        bits = _mix(_mix(seeds + _GOLDEN) + (positions + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
