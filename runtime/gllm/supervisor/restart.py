"""When and how fast a dead group comes back."""

from __future__ import annotations

import time

import msgspec


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = True
    first_delay: float = 0.1
    """Seconds before the first restart; doubles with each one that follows a short life."""
    longest_delay: float = 10.0
    healthy_after: float = 1.0
    """An epoch that served this many seconds resets the delay."""
    max_failed_starts: int = 3
    """Starts in a row that may end before the group has first served."""
    recovery_timeout: float = 120.0
    """Seconds that a group which has served gets to serve again, with as many starts as that takes."""


class Recovery:
    """Decides after each epoch whether and when the next one starts. `serves` and `lost` take turns, starts between."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.has_served = False
        self._serving_since: float | None = None
        self._short_lives = 0
        self._failed_starts = 0
        self._deadline: float | None = None

    @property
    def serving(self) -> bool:
        return self._serving_since is not None

    @property
    def seconds_left(self) -> float:
        """Until the deadline of a recovery; 0 where there is none to wait for."""
        return max(0.0, self._deadline - time.monotonic()) if self._deadline is not None else 0.0

    def serves(self) -> None:
        """The group is ready."""
        self.has_served = True
        self._serving_since = time.monotonic()
        self._failed_starts = 0
        self._deadline = None

    def lost(self, reason: str, *, explained: bool) -> str | None:
        """The epoch ended; returns why it was the last one, or None. `explained`: a process itself said why."""
        now = time.monotonic()
        if self._serving_since is None:
            self._failed_starts += 1
        elif now - self._serving_since >= self.policy.healthy_after:
            self._short_lives = 0
        self._serving_since = None
        if not self.policy.enabled:
            return reason
        if self.has_served:
            if self._deadline is None:
                self._deadline = now + self.policy.recovery_timeout
            return self.missed(reason)
        if explained:
            return reason  # It never served and said why: the same settings would fail the same way.
        if self._failed_starts >= self.policy.max_failed_starts:
            return f"gave up after {self._failed_starts} failed starts: {reason}"
        return None

    def missed(self, reason: str) -> str | None:
        """Why it is over if the deadline of the recovery has passed."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return None
        return f"could not serve again within {self.policy.recovery_timeout:g} s (--recovery-timeout): {reason}"

    def delay(self) -> float:
        """Seconds before the next start."""
        delay = min(self.policy.first_delay * 2.0**self._short_lives, self.policy.longest_delay)
        self._short_lives += 1
        return delay
