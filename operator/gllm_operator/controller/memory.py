"""What the executor remembers of one deployment. Losing it costs a few writes that change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from gllm_operator.kube.api import ApiError
from gllm_operator.objects import ObjectRef
from gllm_operator.plan.observed import Applied, Refusal

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
"""Seconds between the attempts of a refused write. The wait doubles each time."""


@dataclass
class Memory:
    applied: dict[ObjectRef, Applied] = field(default_factory=dict)
    refused: dict[ObjectRef, Refusal] = field(default_factory=dict)
    keys_known: bool = False
    managed_by: str = ""
    """The other operator that this one has said to stand back for."""

    def refuse(self, ref: ObjectRef, digest: str, error: ApiError, held: tuple[str, str], now: float) -> None:
        """Note that the API server refuses a write."""
        before = self.refused.get(ref)
        attempts = before.attempts + 1 if before is not None and before.digest == digest else 1
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempts - 1, 10))
        self.refused[ref] = Refusal(digest, error.message, error.invalid, held, attempts, now + wait)
