"""What measured steps say about micro-batches that the time model may not know yet. Pure: no clock, no I/O.

The time model starts from ratios that may be wrong by several times, and it is solved again only every few steps. Where
running streams would wait for a wrong prediction, these two rules limit the damage to one step:

* No leap: a step of n tokens takes at most n / m times as long as one of m < n tokens, since a step has a fixed cost.
  So beyond the largest micro-batch measured so far, its seconds per token bound the next one. Sizes grow by
  a factor of several per step, from the decodes' own.
* No repetition: when a step with prefill takes f times as long as predicted, the next ones get 1 / f of the prefill.
"""

from __future__ import annotations

from gllm.engine.time_model import Cost, Work

_NEAR = 0.75
"""A step of this share of the largest one updates its seconds per token."""
_NOTED = 1.2
"""Smaller factors are noise."""
_VISIBLE = 0.25
"""A smaller share of a step is not blamed for all of its delay."""
_LARGEST = 4.0
"""Maximum factor: after a stall of a second, prefill need not stop."""
_FORGET = 0.5
"""Share of the factor's excess that remains after each step with prefill."""


class SafetyMargin:
    """Learns from the same reports as the time model. Times are seconds of any stage."""

    def __init__(self) -> None:
        self.factor = 1.0
        """By which recent prefill took longer than predicted; at least 1."""
        self._largest = 0
        """Tokens of the largest micro-batch measured."""
        self._token = 0.0
        """Seconds per token of a recent micro-batch of about that size."""

    def observe(self, work: Work, cost: Cost, elapsed: float) -> None:
        """Learn from a step. An invalid time (zero, negative, over an hour) is ignored, as by the time model.

        cost: the one by which micro-batches are bounded.
        """
        if not 1e-7 < elapsed < 3600.0 or work.tokens < 1:
            return
        if work.tokens >= _NEAR * self._largest:
            self._largest = max(self._largest, work.tokens)
            self._token = elapsed / work.tokens
        if work.prefill_tokens > 0:
            predicted = cost.predict(work)
            decodes = Work(decode_rows=work.decode_rows, decode_context=work.decode_context)
            prefill = max(predicted - cost.predict(decodes), _VISIBLE * predicted)
            missed = min(1.0 + (elapsed - predicted) / prefill, _LARGEST)
            self.factor = max(missed if missed > _NOTED else 1.0, 1.0 + _FORGET * (self.factor - 1.0))

    def most_tokens(self, seconds: float) -> int:
        """Return the largest micro-batch that measured steps justify within `seconds`; 0 before the first step."""
        if not self._largest:
            return 0
        return max(self._largest, int(min(seconds / self._token, 1e9)))
