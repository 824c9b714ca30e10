"""Policies that count tokens: token throttling and its ablations, chunked prefill, a cap on decodes.

Notation of the paper (gLLM, arXiv 2504.14775, equations 1 to 4): #WP waiting prefill tokens, #RD running
decodes, KV_free the free share of the KV pool, and the settings #T, #MaxP, #MinP and KV_thresh.
"""

from __future__ import annotations

from gllm.engine.policies.policy import Budget, Snapshot, ceil_div


def even_decodes(s: Snapshot) -> int:
    """Return equation 4, D = #RD / pp: every micro-batch of the pipeline gets the same share of the decodes.

    With rounding up alone a micro-batch could stay empty: 5 decodes over 4 stages as 2, 2, 1, 0. So the ready decodes
    are also divided among the micro-batches of this round that have no decodes yet: 2, 1, 1, 1. A micro-batch on the
    last stage belongs to the round before: its sequences are ready.
    """
    pp = s.limits.pp
    unfilled = pp - s.decodes_in_flight
    if unfilled <= 0:
        return 0
    return min(ceil_div(s.total_decodes, pp), ceil_div(s.ready_decodes, unfilled))


def _by_waiting(s: Snapshot) -> float:
    """Return equation 1 (WT), #WP / #T: it spreads the waiting tokens over #T iterations, so micro-batches are equal.

    With one stage spreading would only delay first tokens: the bound is #MaxP alone. (The paper's own code also
    throttles only when world size > 1.)
    """
    if s.limits.pp == 1:
        return float(s.limits.max_prefill_tokens)
    return min(s.waiting_tokens / s.limits.prefill_iterations, float(s.limits.max_prefill_tokens))


def _by_usage(s: Snapshot) -> float | None:
    """Return equation 2 (UT), #MaxP * (KV_free - KV_thresh) / (1 - KV_thresh); None (no prefill) below KV_thresh."""
    limits = s.limits
    if s.kv_free < limits.kv_threshold:
        return None
    return limits.max_prefill_tokens * (s.kv_free - limits.kv_threshold) / (1.0 - limits.kv_threshold)


def _suspended(s: Snapshot) -> int:
    """Return the prefill tokens while the pool is below KV_thresh: none, because decodes end and release pages.

    Without decodes no page would be released: the prefills that hold the pages continue with #MinP.
    """
    return 0 if s.total_decodes else s.limits.min_prefill_tokens


def token_throttling(s: Snapshot) -> Budget:
    """Equation 3: P = max(min(#WP / #T, #MaxP * (KV_free - KV_thresh) / (1 - KV_thresh)), #MinP); equation 4 for D."""
    usage = _by_usage(s)
    prefill = _suspended(s) if usage is None else max(int(min(_by_waiting(s), usage)), s.limits.min_prefill_tokens)
    return Budget(prefill_tokens=prefill, decode_rows=even_decodes(s))


def no_wt(s: Snapshot) -> Budget:
    """The paper's ablation without WT: P = max(#MaxP * (KV_free - KV_thresh) / (1 - KV_thresh), #MinP)."""
    usage = _by_usage(s)
    prefill = _suspended(s) if usage is None else max(int(usage), s.limits.min_prefill_tokens)
    return Budget(prefill_tokens=prefill, decode_rows=even_decodes(s))


def no_ut(s: Snapshot) -> Budget:
    """The paper's ablation without UT: P = max(min(#WP / #T, #MaxP), #MinP), for any KV pool.

    KV_thresh belongs to UT: it is not used either.
    """
    prefill = max(int(_by_waiting(s)), s.limits.min_prefill_tokens)
    return Budget(prefill_tokens=prefill, decode_rows=even_decodes(s))


def chunked_prefill(s: Snapshot) -> Budget:
    """Sarathi-Serve (arXiv 2403.02310): one budget of #MaxP tokens; all ready decodes first, then prefill."""
    decodes = min(s.ready_decodes, s.limits.max_prefill_tokens)
    return Budget(prefill_tokens=s.limits.max_prefill_tokens - decodes, decode_rows=decodes)


def decode_cap(s: Snapshot) -> Budget:
    """chunked_prefill with at most ceil(max_num_seqs / pp) decodes, so that one micro-batch does not take them all."""
    most = min(ceil_div(s.limits.max_num_seqs, s.limits.pp), s.limits.max_prefill_tokens)
    decodes = min(s.ready_decodes, most)
    return Budget(prefill_tokens=s.limits.max_prefill_tokens - decodes, decode_rows=decodes)
