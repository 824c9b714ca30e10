"""The input and the output of a scheduling policy: limits, snapshot, budget; and the adaptive KV reserve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gllm.config import EngineConfig
from gllm.engine.time_model import PRIOR, Cost

_RAISE = 0.02
_DECAY = 0.999
_LEAST_SHARE = 0.2
"""Share of KV_thresh to which the reserve falls without preemptions."""
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a policy; they do not change while the engine runs."""

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
    ttft_target: float = 0.0
    """Seconds; 0: none."""
    tpot_target: float = 0.0
    """Seconds; 0: none."""

    @classmethod
    def of(cls, config: EngineConfig, pp: int) -> Limits:
        """Take the settings from a config. Raises ValueError, which names the setting, if no request could ever run."""
        for name, value, least in (
            ("pp", pp, 1),
            ("max_num_seqs", config.max_num_seqs, 1),
            ("max_prefill_tokens", config.max_prefill_tokens, 1),
            ("min_prefill_tokens", config.min_prefill_tokens, 1),
            ("prefill_iterations", config.prefill_iterations, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        for name, seconds in (("ttft_target", config.ttft_target), ("tpot_target", config.tpot_target)):
            if not 0.0 <= seconds < math.inf:
                raise ValueError(f"{name} must be 0 or more seconds, not {seconds}")
        if not 0.0 <= config.kv_threshold < 1.0:
            raise ValueError(f"kv_threshold must be from 0 to below 1, not {config.kv_threshold}")
        return cls(
            pp=pp,
            max_num_seqs=config.max_num_seqs,
            max_prefill_tokens=config.max_prefill_tokens,
            min_prefill_tokens=min(config.min_prefill_tokens, config.max_prefill_tokens),
            prefill_iterations=config.prefill_iterations,
            kv_threshold=config.kv_threshold,
            ttft_target=config.ttft_target,
            tpot_target=config.tpot_target,
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A prompt, or the rest of one, that waits for prefill."""

    tokens: int
    pairs: float
    """Sum of the contexts of these tokens: the number of pairs of tokens in their attention."""
    age: float
    """Seconds since the request arrived; 0 if it already had its first token (a preempted request)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the system that a policy reads before a micro-batch is built."""

    limits: Limits
    waiting_tokens: int
    """#WP: prompt tokens of queued requests and of unfinished prefills, net of prefix-cache hits."""
    waiting_requests: int
    """Queued requests and unfinished prefills."""
    ready_decodes: int
    """Running decodes that may be scheduled."""
    total_decodes: int
    """#RD: running decodes, including those in flight."""
    decode_context: int
    """Tokens in the KV cache of all running decodes."""
    kv_free: float
    """Free share of the KV pool, 0 to 1; cached pages without a reference are free."""
    in_flight: int
    """Micro-batches in flight."""
    decodes_in_flight: int
    """Micro-batches that have decode rows and have not reached the last stage: their sequences are not ready."""
    step_times: tuple[float, ...]
    """Measured seconds of the last steps, oldest first."""

    cost: Cost = PRIOR
    """Predicted times of the slowest stage. This field and those below are for policies that use time."""
    in_flight_seconds: tuple[float, ...] = ()
    """Predicted time of each micro-batch in flight on that stage."""
    ready_contexts: tuple[int, ...] = ()
    """Context of each ready decode, in tokens; the decodes are sorted by waiting time, the longest first."""
    waiting_pairs: float = 0.0
    """Sum of `Waiting.pairs` over all waiting prompts."""
    waiting: tuple[Waiting, ...] = ()
    """The first waiting prompts, in order of service."""
    kv_reserve: float = 0.0
    """Share of the pool kept free of new prefill, adapted to preemptions."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of the next micro-batch. Decode rows and prefill tokens are counted separately."""

    prefill_tokens: int
    decode_rows: int
    prefill_seconds: float = math.inf
    """Predicted time that prefill may add, with the snapshot's `cost`."""
    least_tokens: int = 1
    """Prefill tokens that are taken regardless of their time."""
    decodes: tuple[int, ...] | None = None
    """The ready decodes to take, as indices into `ready_contexts`; None: the first `decode_rows`."""
    shorten: bool = True
    """Whether the micro-batch may be shorter, to end on a size to which steps are padded; otherwise it gets longer."""


Policy = Callable[[Snapshot], Budget]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def adapted_reserve(reserve: float, preemptions: int, limits: Limits) -> float:
    """Return the share of the KV pool that new prefill leaves free, after a step with `preemptions`.

    It starts at KV_thresh. Each preemption adds 2 % of the pool; each step subtracts 0.1 % of the part above a fifth of
    KV_thresh. So with the default KV_thresh one preemption in 700 steps keeps it at about 4 %, one in 70 steps at about
    30 %. The idea comes from SGLang's new-token ratio, which gLLM 0.0.7 uses too (+ 0.05 per preemption, - 0.002 per
    step, of the output that is still allowed); a share of the pool needs no estimate of output lengths.
    """
    least = _LEAST_SHARE * limits.kv_threshold
    decayed = least + (reserve - least) * _DECAY
    return min(decayed + _RAISE * preemptions, max(_MOST, limits.kv_threshold))
