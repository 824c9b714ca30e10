"""What every scheduling policy sees and answers: limits, snapshot, budget. Plain frozen data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gllm.config import EngineConfig


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
