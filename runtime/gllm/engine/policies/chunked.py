"""Policies of one shared token budget: decodes first, prefill fills what is left."""

from __future__ import annotations

from gllm.engine.policies.base import Budget, Snapshot, ceil_div


def chunked_prefill(s: Snapshot) -> Budget:
    """Sarathi-Serve (arXiv 2403.02310): one budget of #MaxP tokens; all ready decodes first, prefill fills the rest."""
    decodes = min(s.ready_decodes, s.limits.max_prefill_tokens)
    return Budget(prefill_tokens=s.limits.max_prefill_tokens - decodes, decode_rows=decodes)


def decode_cap(s: Snapshot) -> Budget:
    """chunked_prefill with at most ceil(max_num_seqs / pp) decodes, so that one micro-batch cannot take them all."""
    most = min(ceil_div(s.limits.max_num_seqs, s.limits.pp), s.limits.max_prefill_tokens)
    decodes = min(s.ready_decodes, most)
    return Budget(prefill_tokens=s.limits.max_prefill_tokens - decodes, decode_rows=decodes)
