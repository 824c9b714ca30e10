"""The time of a micro-batch on a stage as a sum of terms. Pure.

    t = a + b * tokens + g * max(tokens - KNEE, 0) + c * sum(chunk * context) + d * sum(decode context)
      + e * sampled rows

The terms follow the cost of a transformer: weights are read and kernels launched for any batch (a); matrix products
grow with tokens (b), and faster when compute limits them and not the reading of weights (g); attention of a prompt's
chunk grows with chunk times context (c), attention of a decode with its context, whose KV is read once (d); the LM head
and sampling run for rows that sample (e; last stage). SGLang's dynamic chunking for pipelines fits such a form (tokens
and tokens squared) before it serves, for chunks only; here all terms are fitted while serving (`stage_model.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KNEE = 128
"""Number of tokens from which compute limits the matrix products of a dense bf16 model. Measured on an H200
(Qwen2.5-32B): the products of a layer take 0.27 ms for 16 and for 128 tokens, 0.36 ms for 256, and 1.4 us for each
further token.
Where the knee is lower, as on CPUs, the fit gives both slopes nearly the same value."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a micro-batch on each stage."""

    prefill_tokens: int = 0
    decode_rows: int = 0
    """The number of decode rows, which is also the number of decode tokens."""
    attention: float = 0.0
    """Sum over chunks of chunk * mean context of the chunk's tokens: the number of pairs of tokens."""
    decode_context: int = 0
    """Sum of the contexts of decode rows, in tokens."""
    sampled_rows: int = 0

    @property
    def tokens(self) -> int:
        return self.prefill_tokens + self.decode_rows


def chunk_pairs(start: int, tokens: int) -> float:
    """Return chunk * context of a causal chunk from position `start`: the sum of start + 1 ... start + tokens."""
    return tokens * (start + 0.5 * (tokens + 1))


@dataclass(frozen=True, slots=True)
class Cost:
    """The coefficients of one stage, in seconds."""

    a: float
    """Per step."""
    b: float
    """Per token."""
    c: float
    """Per pair (token of a chunk, token of its context)."""
    d: float
    """Per token in a decode's context."""
    e: float
    """Per row that samples."""
    g: float = 0.0
    """Per token beyond the KNEE, in addition to b."""

    @property
    def prefill_token(self) -> float:
        """Seconds per token of a micro-batch that is bound by compute."""
        return self.b + self.g

    @property
    def prefill_step(self) -> float:
        """Seconds of a step that is bound by compute, without its tokens; at least a sixteenth of `a`."""
        return max(self.a - self.g * KNEE, self.a / 16)

    def prefill(self, tokens: int, pairs: float) -> float:
        """Return the seconds of prefill in micro-batches that are bound by compute. pairs: as in `chunk_pairs`."""
        return self.prefill_token * tokens + self.c * pairs

    def products(self, tokens: float) -> float:
        """Return the seconds that the matrix products of a micro-batch take beyond `a`."""
        return self.b * tokens + self.g * max(tokens - KNEE, 0.0)

    def added(self, seconds: float, beside: int) -> float:
        """Return the seconds that prefill adds to a micro-batch of `beside` tokens.

        seconds: the same prefill at the price of a micro-batch that is bound by compute.
        """
        cheap = min(max(KNEE - beside, 0), seconds / self.prefill_token) if self.g else 0.0
        return seconds - self.g * cheap

    def bound_by_compute(self, added: float, beside: int) -> float:
        """Return the inverse of `added`, for a micro-batch with more tokens than the knee."""
        return added + self.g * max(KNEE - beside, 0)

    def predict(self, work: Work) -> float:
        """Return the seconds of a micro-batch."""
        return (
            self.a
            + self.products(work.prefill_tokens + work.decode_rows)
            + self.c * work.attention
            + self.d * work.decode_context
            + self.e * work.sampled_rows
        )

    def chunk(self, start: int, tokens: int, beside: int = 0) -> float:
        """Return the seconds that a prompt's chunk adds to a micro-batch of `beside` tokens."""
        products = self.products(beside + tokens) - self.products(beside)
        return products + self.c * chunk_pairs(start, tokens)

    def tokens_within(self, seconds: float, start: int, beside: int = 0) -> int:
        """Return the longest chunk, in tokens from position `start`, that adds at most `seconds` beside others."""
        if seconds <= 0.0:
            return 0
        below = max(KNEE - beside, 0)
        cheap = min(self._root(seconds, start, self.b), below)
        if cheap < below:
            return cheap
        return below + self._root(seconds - self.chunk(start, below, beside), start + below, self.prefill_token)

    def _root(self, seconds: float, start: int, token: float) -> int:
        """Return the positive root of c/2 n^2 + (token + c (start + 1/2)) n = seconds, rounded down."""
        if seconds <= 0.0:
            return 0
        linear = token + self.c * (start + 0.5)
        # 2 s / (p + sqrt(p^2 + 2 c s)) is the root without cancellation, and correct for c = 0.
        root = linear + math.sqrt(linear * linear + 2.0 * self.c * seconds)
        return int(min(2.0 * seconds / root * (1.0 + 1e-9), 1e9)) if root > 0.0 else 10**9


PRIOR = Cost(a=150.0, b=0.0625, c=1e-4, d=1e-3, e=0.1, g=0.9375)
"""Ratios before the first measurement, in tokens: dense models of 0.1 to 32 billion parameters on CPUs and GPUs read
their weights in the time of 10 to 250 tokens' products, and a token's cost doubles at a context of 4 to 30 thousand."""
