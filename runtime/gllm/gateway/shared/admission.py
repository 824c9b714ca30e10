"""Admission of requests, decided before the response headers are sent.

The count covers waiting and running choices; a request with n choices of p prompts counts n * p. The token bound covers
prompt tokens that are not computed yet, so it can be set to target TTFT times measured prefill rate.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from gllm.config import GatewayConfig
from gllm.engine.client.client import EngineClient
from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.protocol.errors import ApiError, overloaded, unavailable

RETRY_AFTER_RANGE = (1, 60)
_RATE_WINDOW = 30.0
_RATE_SAMPLES = 256


class Admission:
    def __init__(
        self,
        config: GatewayConfig,
        engine: EngineClient | RemoteEngines,
        *,
        on_reject: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._engine = engine
        self._on_reject = on_reject
        self._clock = clock
        self._finished: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)
        self._idle_since = clock()
        self.live = 0
        """Admitted choices that are not finished."""
        self.waiting_tokens = 0
        """Admitted prompt tokens that are not computed yet."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def idle_seconds(self) -> float:
        """The time since a choice was last live; 0 while one is."""
        return 0.0 if self.live else max(self._clock() - self._idle_since, 1e-3)

    async def empty(self) -> None:
        """Wait until no choice is live."""
        await self._idle.wait()

    def _change_live(self, weight: int) -> None:
        self.live += weight
        if self.live:
            self._idle.clear()
        else:
            self._idle_since = self._clock()
            self._idle.set()

    def admit(self, weight: int) -> Ticket:
        """Admit `weight` choices. Raises ApiError 503 (not ready) or 429 (full).

        While the engine is being replaced, requests are admitted and wait. That takes seconds; an error would make
        every client guess when to retry.
        """
        limits = self._engine.limits
        if limits is None and not self._config.wait_for_engine:
            self._reject("not_ready")
            raise unavailable("The engine is not ready.", "not_ready", retry_after=5)
        running = 0 if limits is None else limits.max_num_seqs
        limit = running + self._config.max_queued_requests
        if weight > limit:
            raise ApiError(
                400,
                f"{weight} choices can never run here; at most {limit} may be in the server at once.",
                param="n",
                code="too_many_choices",
            )
        if self.live + weight > limit:
            self._reject("queue_full")
            raise overloaded("The queue is full.", self._retry_after(self.live - running))
        self._change_live(weight)
        return Ticket(self, weight)

    def admit_tokens(self, ticket: Ticket, tokens: int) -> None:
        """Admit prompt tokens. Raises ApiError 429. An empty queue admits a single prompt beyond the bound."""
        most = self._config.max_queued_tokens
        if most and self.waiting_tokens and self.waiting_tokens + tokens > most:
            self._reject("queue_tokens")
            raise overloaded("Too many prompt tokens are waiting.", self._retry_after(self.live))
        self.waiting_tokens += tokens
        ticket.waiting_tokens += tokens

    def _reject(self, reason: str) -> None:
        self._on_reject(reason)

    def leave(self, weight: int, finished: bool) -> None:
        """Remove choices from the count. finished: they count for the finish rate, which gives Retry-After."""
        self._change_live(-weight)
        if finished:
            self._finished.append((self._clock(), weight))

    def _retry_after(self, queued: int) -> int:
        """Return the seconds in which `queued` choices finish at the recent rate, limited to 1 to 60."""
        low, high = RETRY_AFTER_RANGE
        now = self._clock()
        recent = [(at, weight) for at, weight in self._finished if now - at <= _RATE_WINDOW]
        if not recent:
            return low
        span = max(now - recent[0][0], 0.1)
        rate = sum(weight for _, weight in recent) / span
        return min(high, max(low, math.ceil(max(queued, 1) / rate)))


class Ticket:
    """One request's share of the counts. `release` gives the rest back; a second call has no effect."""

    def __init__(self, admission: Admission, weight: int) -> None:
        self._admission = admission
        self.weight = weight
        self.waiting_tokens = 0

    def prefilled(self, tokens: int) -> None:
        """Note that these prompt tokens are computed."""
        tokens = min(tokens, self.waiting_tokens)
        self.waiting_tokens -= tokens
        self._admission.waiting_tokens -= tokens

    def finished(self) -> None:
        """Note that one choice has finished."""
        if self.weight:
            self.weight -= 1
            self._admission.leave(1, finished=True)

    def release(self) -> None:
        self.prefilled(self.waiting_tokens)
        if self.weight:
            self._admission.leave(self.weight, finished=False)
            self.weight = 0
