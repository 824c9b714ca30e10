"""The record of one request: what a client or a simulation saw of it."""

from __future__ import annotations

import itertools
import math

import msgspec


class RequestRecord(msgspec.Struct, kw_only=True):
    """The record of one request. Times are seconds; `start` counts from the start of the run."""

    index: int
    prompt_tokens: int
    output_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens that the server found in its prefix cache; None if it does not say."""
    counted: bool = True
    """Whether the server said how many tokens there were; otherwise each event counts as one."""
    start: float = 0.0
    pieces: list[tuple[float, float]] = []
    """(seconds after `start`, tokens) of each piece of output.

    HTTP does not say how many tokens an event has: the first counts as one token, and the others share the rest of
    `output_tokens`. The offline engine has exact numbers. The tokens of a request's pieces add up to `output_tokens`.
    """
    latency: float = 0.0
    """E2EL: from sending to the end of the output, or to the failure."""
    finish_reason: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def first_token(self) -> float:
        """Seconds from the start of the run to the first piece of output; infinite without output."""
        return self.start + self.pieces[0][0] if self.pieces else math.inf

    @property
    def end(self) -> float:
        """Seconds from the start of the run to the end of the request."""
        return self.start + self.latency

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first piece of output."""
        return self.pieces[0][0]

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first; None with only one token."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Inter-token latencies as (seconds, number of tokens): a piece's gap is split evenly over its tokens."""
        return [((now - before) / tokens, tokens) for (before, _), (now, tokens) in itertools.pairwise(self.pieces)]
