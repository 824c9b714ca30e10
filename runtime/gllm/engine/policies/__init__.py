"""Scheduling policies: pure functions from a snapshot of the system to a budget for the next micro-batch."""

from __future__ import annotations

from gllm.config import PolicyName
from gllm.engine.policies.balanced import balanced
from gllm.engine.policies.bound import step_seconds, within_bound
from gllm.engine.policies.policy import Budget, Limits, Policy, Snapshot, Waiting, adapted_reserve, ceil_div
from gllm.engine.policies.token_policies import chunked_prefill, decode_cap, no_ut, no_wt, token_throttling

__all__ = [
    "POLICIES",
    "TIME_AWARE",
    "Budget",
    "Limits",
    "Policy",
    "Snapshot",
    "Waiting",
    "adapted_reserve",
    "balanced",
    "ceil_div",
    "chunked_prefill",
    "decode_cap",
    "no_ut",
    "no_wt",
    "step_seconds",
    "token_throttling",
    "within_bound",
]

POLICIES: dict[PolicyName, Policy] = {
    "token_throttling": token_throttling,
    "balanced": balanced,
    "chunked_prefill": chunked_prefill,
    "decode_cap": decode_cap,
    "no_wt": no_wt,
    "no_ut": no_ut,
}
TIME_AWARE: frozenset[PolicyName] = frozenset({"balanced"})
"""Policies that read the predicted times of a snapshot, which take time to compute."""
