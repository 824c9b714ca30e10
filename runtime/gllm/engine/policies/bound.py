"""The bound on the time of a micro-batch while requests decode. It holds under every policy, by cutting prefill.

A running stream gets its next token when the micro-batch that carries it has passed, so a long micro-batch stops every
stream. Without running decodes nothing waits, and the policy alone decides.
"""

from __future__ import annotations

from dataclasses import replace

from gllm.engine.policies.policy import Budget, Limits

UNASKED_SECONDS = 0.25
"""The bound without a TPOT target."""
_COMPUTED = 0.97
"""Share of the target for the stages' computation; transfers, noise and unequal micro-batches take the rest."""
FLOOR = 1 / 16
"""Prefill gets this share of a micro-batch's other time although the bound is exceeded: it never starves. TPOT stays
within a sixteenth of what the decodes alone need, and so little prefill starts fewer decodes than end."""


def step_seconds(limits: Limits) -> float:
    """Return the maximum predicted seconds of a micro-batch while requests decode.

    A round has pp micro-batches, and a token takes a round: TPOT = pp * t.
    """
    if not limits.tpot_target:
        return UNASKED_SECONDS
    return _COMPUTED * limits.tpot_target / limits.pp


def prefill_room(limits: Limits, base: float) -> float:
    """Return the seconds of prefill that fit beside `base` seconds of other work: never less than the FLOOR's share."""
    bound = step_seconds(limits)
    return max(bound - base, FLOOR * max(bound, base))


def within_bound(budget: Budget, limits: Limits, base: float, margin: float, most_tokens: int) -> Budget:
    """Return the budget with prefill cut to the bound, but not below one token if it had any.

    Args:
        base: predicted seconds of the micro-batch without prefill.
        margin: factor by which recent prefill took longer than predicted, at least 1.
        most_tokens: maximum of prefill tokens that measured steps justify (`gllm.engine.safety_margin`).
    """
    return replace(
        budget,
        prefill_tokens=min(budget.prefill_tokens, max(most_tokens, 1)),
        prefill_seconds=min(budget.prefill_seconds, prefill_room(limits, base) / margin),
        least_tokens=min(budget.least_tokens, 1),
    )
