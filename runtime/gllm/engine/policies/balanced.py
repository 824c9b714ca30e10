"""Balanced: token throttling in seconds. Micro-batches have equal predicted times, not equal tokens.

A pipeline of pp stages with micro-batches of times t_1 ... t_n in rotation needs max(sum of t, pp * longest t) for a
round: a micro-batch that is longer than the mean costs each stage the difference. Equal numbers of tokens do not mean
equal times: a decode with a context of 7000 tokens costs several times one with 200, and a late chunk of a long prompt
costs more than its first. Here all sizes are seconds of the slowest stage, predicted by `gllm.engine.time_model` with
the snapshot's coefficients a (step), b (token), g (token beyond the knee), c (token of a chunk times token of its
context), d (token of a decode's context) and e (sampled row).

The structure is the paper's (gLLM, arXiv 2504.14775, equations 1 to 4); each formula states its difference.
"""

from __future__ import annotations

import math

from gllm.engine.policies.bound import prefill_room
from gllm.engine.policies.policy import Budget, Snapshot
from gllm.engine.time_model import Cost

_SHORTEST_SLACK = 1e-3
_TRICKLE = 1 / 16
_FEW = 1 / 16
"""Maximum seconds of decodes, as a share of a step without them, beside which prefill is most of the work."""
_MOST_OVER_DEMAND = 2.0
"""Below the knee prefill costs little, so more tokens fit than the demand asks for: at most this factor. More of them
would make micro-batches uneven (in the simulator 11 % of the throughput at PP16 above capacity)."""
_LEFT_OVER = 0.1
"""A rest shorter than this share of a micro-batch is spread over the others."""
_MOST_PREFILL = 0.95
"""Maximum share of a micro-batch's time for prefill with a TTFT target."""


def balanced(s: Snapshot) -> Budget:
    """Decodes by `pack_decodes`, and as much prefill as makes the micro-batch last the target time.

    With one stage and no decodes nothing waits for a micro-batch: it has #MaxP tokens. While prefill is most of the
    work of a pipeline, `prefill_led` gives its seconds. Otherwise target = a + share of the decodes +
    prefill, where prefill is equation 3 in seconds:

        max(min(demand, token * #MaxP * (KV_free - reserve) / (1 - reserve)), token * #MinP)

    and none while KV_free < reserve. `demand` is `by_waiting` (equation 1) or, with a TTFT target, `by_deadline`. The
    target then changes by at most one part in pp per step (`smoothed`), and prefill gets the rest after the decodes: a
    micro-batch with few decodes, or none, gets a longer chunk. The number of tokens depends on their context; the
    scheduler computes it for each chunk (`Cost.tokens_within`).
    """
    limits, cost = s.limits, s.cost
    share = decode_share(s)
    decodes, decode_seconds = pack_decodes(s, share)
    if s.total_decodes and s.kv_free < s.kv_reserve:
        return Budget(0, len(decodes), 0.0, 0, decodes)
    if s.limits.pp == 1 and not s.total_decodes:
        return Budget(limits.max_prefill_tokens, 0, least_tokens=limits.min_prefill_tokens, decodes=())
    base = cost.a + share
    least = cost.prefill_token * limits.min_prefill_tokens
    usage = max((s.kv_free - s.kv_reserve) / (1.0 - s.kv_reserve), 0.0) if s.total_decodes else 1.0
    most = max(cost.prefill_token * limits.max_prefill_tokens * usage, least)
    if s.total_decodes:
        most = min(most, prefill_room(limits, cost.a + decode_seconds))
        least = min(least, most)
    tokens = limits.max_prefill_tokens
    seconds = prefill_led(s, share, len(decodes), decode_seconds, least)
    shorten = seconds is None
    if seconds is None:
        demand = min(max(wanted(s, base), least), most)
        target = smoothed(s, base + demand, base + least, base + most)
        seconds = target - cost.a - decode_seconds
        tokens = min(max(int(_MOST_OVER_DEMAND * demand / cost.prefill_token), limits.min_prefill_tokens), tokens)
    seconds = min(max(seconds, least), most)
    return Budget(tokens, len(decodes), seconds, limits.min_prefill_tokens, decodes, shorten)


def decode_share(s: Snapshot) -> float:
    """Return the seconds that one part in pp of all decodes adds to a step."""
    cost, pp = s.cost, s.limits.pp
    rows = s.total_decodes / pp
    return cost.products(rows) + cost.e * rows + cost.d * s.decode_context / pp


def token_seconds(cost: Cost, tokens: float) -> float:
    """Return the mean seconds of one token's matrix products in a micro-batch of `tokens`."""
    return cost.products(tokens) / tokens if tokens else cost.b


def prefill_led(s: Snapshot, share: float, decodes: int, decode_seconds: float, least: float) -> float | None:
    """Return the seconds of prefill beside `decodes` rows while prefill is most of the work; None if it is not.

    Args:
        share: seconds of one part in pp of all decodes.
        decode_seconds: seconds of the decodes of this micro-batch.
        least: minimum seconds of prefill, at the price of a micro-batch that is bound by compute.

    The waiting prefill takes W seconds on each stage. In n micro-batches of equal time the last one ends after
    (n + pp - 1) (W / n + f), where f is the cost of a step beyond its prefill; n = sqrt((pp - 1) W / f) gives the
    minimum. A micro-batch is not shorter than the longest in flight: a flow shop with equal stages takes the sum of its
    jobs plus pp - 1 times the longest, so shorter ones would only add steps.
    """
    pp, cost = s.limits.pp, s.cost
    waiting = cost.prefill(s.waiting_tokens, s.waiting_pairs)
    if pp == 1 or waiting <= 0.0:
        return None
    if s.total_decodes and (s.limits.ttft_target or share > _FEW * cost.a or waiting < 2 * pp * (cost.a + share)):
        return None
    fixed = cost.prefill_step + share
    longest = cost.bound_by_compute(max(s.in_flight_seconds, default=0.0) - cost.a - decode_seconds, decodes)
    seconds = max(math.sqrt(waiting * fixed / (pp - 1)), longest, least)
    return cost.added(waiting / max(math.ceil(waiting / seconds - _LEFT_OVER), 1), decodes)


def pack_decodes(s: Snapshot, share: float) -> tuple[tuple[int, ...], float]:
    """Choose decodes worth sum / pp: equation 4 in seconds. Returns indices into `ready_contexts`, and their seconds.

    As in `even_decodes`, decodes stay in pp micro-batches, and the ready ones are divided among those without decodes.
    First fit in order of readiness: the decode that has waited longest is always taken. A decode that would exceed the
    time is left to the next micro-batch, where it comes first. If time is left, the shortest of those is taken too.
    """
    cost, ready = s.cost, s.ready_contexts
    row = token_seconds(cost, s.total_decodes / s.limits.pp) + cost.e
    total = row * len(ready) + cost.d * sum(ready)
    unfilled = s.limits.pp - s.decodes_in_flight
    if s.limits.pp == 1 or not ready:
        return tuple(range(len(ready))), total
    if unfilled <= 0:
        return (), 0.0
    goal = min(share, total / unfilled) * (1.0 - 1e-9)
    if unfilled == 1 and total <= share * (1.0 + 1e-9):
        return tuple(range(len(ready))), total
    chosen = [0]
    seconds = row + cost.d * ready[0]
    shortest = -1
    for index in range(1, len(ready)):
        if seconds >= goal:
            break
        more = row + cost.d * ready[index]
        if seconds + more <= goal:
            chosen.append(index)
            seconds += more
        elif shortest < 0 or ready[index] < ready[shortest]:
            shortest = index
    if seconds < goal and shortest >= 0:
        chosen.append(shortest)
        seconds += row + cost.d * ready[shortest]
    return tuple(chosen), seconds


def wanted(s: Snapshot, base: float) -> float:
    """Return the seconds of prefill beside `base` seconds of other work, before limits.

    With a TTFT target alone, prefill is as late as the target allows, for a short TPOT. With a TPOT target that is
    already decided: prefill is as early as by #WP/#T, or earlier where the deadline needs it.
    """
    if not s.limits.ttft_target:
        return by_waiting(s, base)
    due = by_deadline(s, base)
    return max(due, by_waiting(s, base)) if s.limits.tpot_target else due


def by_waiting(s: Snapshot, base: float) -> float:
    """Return equation 1 in seconds: the time of all waiting prefill over #T micro-batches, at least base / 16.

    #T is at least 2 pp: a burst must be spread over more than one round of the pipeline; otherwise it is a pulse that
    makes each stage wait (with the paper's #T = 8 it is one at pp = 8 and 16). But a sixteenth of `base`, the
    micro-batch without prefill, is no pulse: short prompts need not wait 2 pp steps. With one stage there is no bound.
    """
    limits = s.limits
    if limits.pp == 1:
        return float("inf")
    waiting = s.cost.prefill(s.waiting_tokens, s.waiting_pairs)
    return max(waiting / max(limits.prefill_iterations, 2 * limits.pp), _TRICKLE * base)


def by_deadline(s: Snapshot, base: float) -> float:
    """Return the seconds of prefill that the most urgent request needs in a micro-batch, to meet the TTFT target.

    A request whose prefill ends after `ahead` seconds of prefill work, and whose first token is due in `slack` seconds,
    needs the share r = ahead / slack of the pipeline's time. A micro-batch with `base` seconds of other work then has
    base * r / (1 - r) of prefill. The slack is the target minus the age minus the time through the stages, pp * base.
    (Earliest deadline first: the processor demand criterion of Baruah, Rosier, Howell 1990, for arrivals in order.)
    """
    limits, cost = s.limits, s.cost
    due = limits.ttft_target - limits.pp * base
    ahead = needed = 0.0
    for waiting in s.waiting:
        ahead += cost.prefill(waiting.tokens, waiting.pairs)
        needed = max(needed, ahead / max(due - waiting.age, _SHORTEST_SLACK))
    # Requests that are not listed arrived later: they are due after the target.
    needed = max(needed, cost.prefill(s.waiting_tokens, s.waiting_pairs) / max(due, _SHORTEST_SLACK))
    share = min(needed, _MOST_PREFILL)
    return base * share / (1.0 - share)


def smoothed(s: Snapshot, target: float, least: float, most: float) -> float:
    """Return the target, limited to one part in pp around the mean of the micro-batches in flight.

    The additional micro-batch in flight absorbs one part in pp: pp * t (1 + 1 / pp) = (pp + 1) t, the time of a round.
    The lower limit keeps prefill running: less would only leave a gap behind the longer micro-batches in flight.
    """
    pp, ahead = s.limits.pp, s.in_flight_seconds
    if pp == 1 or len(ahead) < pp:
        return target
    mean = sum(ahead) / len(ahead)
    lowest = min(mean * (1.0 - 1.0 / pp), most)
    highest = max(mean * (1.0 + 1.0 / pp), least)
    return min(max(target, lowest), highest)
