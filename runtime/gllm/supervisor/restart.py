"""The restart policy of a process group: whether it restarts, and after which delay."""

from __future__ import annotations

import time

import msgspec


class RestartConfig(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = True
    first_delay: float = 0.1
    """Seconds before the first restart. The delay doubles with each restart after a short epoch."""
    longest_delay: float = 10.0
    healthy_after: float = 1.0
    """An epoch that served this many seconds resets the delay."""
    max_failed_starts: int = 3
    """Starts in a row that may fail before the group first serves."""
    recovery_timeout: float = 120.0
    """Seconds within which a group that has served must serve again, however many starts that takes."""


class RestartPolicy:
    """Decides after each epoch whether the next one starts, and when.

    The group calls `on_ready` and `on_exit` in turns; `on_exit` may follow `on_exit` if a start fails.
    """

    def __init__(self, config: RestartConfig) -> None:
        self.config = config
        self.has_served = False
        self._serving_since: float | None = None
        self._short_epochs = 0
        self._failed_starts = 0
        self._deadline: float | None = None

    @property
    def serving(self) -> bool:
        return self._serving_since is not None

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline of a recovery; 0 if there is none."""
        return max(0.0, self._deadline - time.monotonic()) if self._deadline is not None else 0.0

    def on_ready(self) -> None:
        """Record that the group serves."""
        self.has_served = True
        self._serving_since = time.monotonic()
        self._failed_starts = 0
        self._deadline = None

    def on_exit(self, reason: str, *, explained: bool) -> str | None:
        """Record that the epoch ended. Returns why the group ends, None if it restarts.

        `explained`: a process itself reported the reason.
        """
        now = time.monotonic()
        if self._serving_since is None:
            self._failed_starts += 1
        elif now - self._serving_since >= self.config.healthy_after:
            self._short_epochs = 0
        self._serving_since = None
        if not self.config.enabled:
            return reason
        if self.has_served:
            if self._deadline is None:
                self._deadline = now + self.config.recovery_timeout
            return self.on_deadline(reason)
        if explained:
            return reason  # It never served: with the same settings it would fail the same way.
        if self._failed_starts >= self.config.max_failed_starts:
            return f"gave up after {self._failed_starts} failed starts: {reason}"
        return None

    def on_deadline(self, reason: str) -> str | None:
        """Return why the group ends if the deadline of the recovery has passed, else None."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return None
        return f"could not serve again within {self.config.recovery_timeout:g} s (--recovery-timeout): {reason}"

    def next_delay(self) -> float:
        """Return the seconds before the next start, and count that start."""
        delay = min(self.config.first_delay * 2.0**self._short_epochs, self.config.longest_delay)
        self._short_epochs += 1
        return delay
