"""Scheduling policies: pure functions from a snapshot of the system to a budget for the next micro-batch.

Notation of the paper (gLLM, arXiv 2504.14775, equations 1 to 4): #WP waiting prefill tokens, #RD running
decodes, KV_free the free share of the KV pool, and the settings #T, #MaxP, #MinP and KV_thresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gllm.config import EngineConfig, PolicyName


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings a policy may use; they never change while the engine runs."""

    pp: int
    """Pipeline stages."""
    max_num_seqs: int
    max_prefill_tokens: int
    """#MaxP"""
    min_prefill_tokens: int
    """#MinP"""
    prefill_iterations: int
    """#T"""
    kv_threshold: float
    """KV_thresh"""

    @classmethod
    def of(cls, config: EngineConfig, pp: int) -> Limits:
        """Raises ValueError, naming the setting, for values under which nothing could ever be scheduled."""
        for name, value, least in (
            ("pp", pp, 1),
            ("max_num_seqs", config.max_num_seqs, 1),
            ("max_prefill_tokens", config.max_prefill_tokens, 1),
            ("min_prefill_tokens", config.min_prefill_tokens, 1),
            ("prefill_iterations", config.prefill_iterations, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0.0 <= config.kv_threshold < 1.0:
            raise ValueError(f"kv_threshold must be from 0 to below 1, not {config.kv_threshold}")
        return cls(
            pp=pp,
            max_num_seqs=config.max_num_seqs,
            max_prefill_tokens=config.max_prefill_tokens,
            min_prefill_tokens=min(config.min_prefill_tokens, config.max_prefill_tokens),
            prefill_iterations=config.prefill_iterations,
            kv_threshold=config.kv_threshold,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a policy sees of the system when a micro-batch may be built."""

    limits: Limits
    waiting_tokens: int
    """#WP: prompt tokens of queued requests and of unfinished prefills, net of prefix-cache hits."""
    waiting_requests: int
    """Queued requests and unfinished prefills."""
    ready_decodes: int
    """Running decodes that may be scheduled now."""
    total_decodes: int
    """#RD: running decodes, those in flight included."""
    decode_context: int
    """Tokens in the KV cache of all running decodes together."""
    kv_free: float
    """Free share of the KV pool, 0 to 1; cached pages that nobody holds are free."""
    in_flight: int
    """Micro-batches sent and not yet answered."""
    step_times: tuple[float, ...]
    """Measured seconds of the last steps, oldest first."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What the next micro-batch may hold. Decode rows and prefill tokens are counted apart."""

    prefill_tokens: int
    decode_rows: int


Policy = Callable[[Snapshot], Budget]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _even_decodes(s: Snapshot) -> int:
    """Equation 4, D = #RD / pp: every micro-batch of the pipeline gets the same share of the decodes.

    Rounded up, so that pp micro-batches serve them all; if fewer are ready, all of those.
    """
    return min(s.ready_decodes, ceil_div(s.total_decodes, s.limits.pp))


def _by_waiting(s: Snapshot) -> float:
    """Equation 1 (WT), #WP / #T: spread what waits over #T iterations, so that micro-batches are alike.

    With one stage there is no other micro-batch to be even with, and spreading would only delay first
    tokens: the bound is then #MaxP alone. (The paper's own code also throttles only when world size > 1.)
    """
    if s.limits.pp == 1:
        return float(s.limits.max_prefill_tokens)
    return min(s.waiting_tokens / s.limits.prefill_iterations, float(s.limits.max_prefill_tokens))


def _by_usage(s: Snapshot) -> float | None:
    """Equation 2 (UT), #MaxP * (KV_free - KV_thresh) / (1 - KV_thresh); None (no prefill) below KV_thresh."""
    limits = s.limits
    if s.kv_free < limits.kv_threshold:
        return None
    return limits.max_prefill_tokens * (s.kv_free - limits.kv_threshold) / (1.0 - limits.kv_threshold)


def _suspended(s: Snapshot) -> int:
    """Prefill tokens while the pool is below KV_thresh: none, as decodes will end and give pages back.

    Without a decode nothing would ever end: the prefills that hold the pages go on with #MinP.
    """
    return 0 if s.total_decodes else s.limits.min_prefill_tokens


def token_throttling(s: Snapshot) -> Budget:
    """Equation 3: P = max(min(#WP / #T, #MaxP * (KV_free - KV_thresh) / (1 - KV_thresh)), #MinP); equation 4 for D."""
    usage = _by_usage(s)
    prefill = _suspended(s) if usage is None else max(int(min(_by_waiting(s), usage)), s.limits.min_prefill_tokens)
    return Budget(prefill_tokens=prefill, decode_rows=_even_decodes(s))


def no_wt(s: Snapshot) -> Budget:
    """The paper's ablation without WT: P = max(#MaxP * (KV_free - KV_thresh) / (1 - KV_thresh), #MinP)."""
    usage = _by_usage(s)
    prefill = _suspended(s) if usage is None else max(int(usage), s.limits.min_prefill_tokens)
    return Budget(prefill_tokens=prefill, decode_rows=_even_decodes(s))


def no_ut(s: Snapshot) -> Budget:
    """The paper's ablation without UT: P = max(min(#WP / #T, #MaxP), #MinP), whatever the KV pool's state.

    KV_thresh belongs to UT and goes with it.
    """
    prefill = max(int(_by_waiting(s)), s.limits.min_prefill_tokens)
    return Budget(prefill_tokens=prefill, decode_rows=_even_decodes(s))


def chunked_prefill(s: Snapshot) -> Budget:
    """Sarathi-Serve (arXiv 2403.02310): one budget of #MaxP tokens; all ready decodes first, prefill fills the rest."""
    decodes = min(s.ready_decodes, s.limits.max_prefill_tokens)
    return Budget(prefill_tokens=s.limits.max_prefill_tokens - decodes, decode_rows=decodes)


def decode_cap(s: Snapshot) -> Budget:
    """chunked_prefill with at most ceil(max_num_seqs / pp) decodes, so that one micro-batch cannot take them all."""
    most = min(ceil_div(s.limits.max_num_seqs, s.limits.pp), s.limits.max_prefill_tokens)
    decodes = min(s.ready_decodes, most)
    return Budget(prefill_tokens=s.limits.max_prefill_tokens - decodes, decode_rows=decodes)


POLICIES: dict[PolicyName, Policy] = {
    "token_throttling": token_throttling,
    "chunked_prefill": chunked_prefill,
    "decode_cap": decode_cap,
    "no_wt": no_wt,
    "no_ut": no_ut,
}
