"""The share of the KV pool that new prefill leaves free, learnt from preemptions."""

from __future__ import annotations

from gllm.engine.policies.base import Limits

_RAISE = 0.02
_DECAY = 0.999
_LEAST_SHARE = 0.2
"""Of KV_thresh: what the reserve falls to when nothing is ever preempted."""
_MOST = 0.5


def adapted_reserve(reserve: float, preemptions: int, limits: Limits) -> float:
    """The reserve after a step in which so many sequences were preempted; it starts at KV_thresh.

    Additive increase, exponential decay: each preemption adds 2 % of the pool, each step takes 0.1 % of what is above a
    fifth of KV_thresh. A preemption in every 700 steps then holds it at some 3 %, one in every 70 at 30 %. The idea of
    a reserve that follows preemptions is that of SGLang's new-token ratio, which gLLM took over (gLLM 0.0.7: + 0.05 a
    preemption, - 0.002 a step, of the output still allowed); a share of the pool needs no guess of output lengths.
    """
    least = _LEAST_SHARE * limits.kv_threshold
    decayed = least + (reserve - least) * _DECAY
    return min(decayed + _RAISE * preemptions, max(_MOST, limits.kv_threshold))
