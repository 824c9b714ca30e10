"""Balanced: token throttling in seconds. Micro-batches have equal predicted times, not equal tokens.

A pipeline of pp stages with micro-batches of times t_1 ... t_n in rotation needs max(sum of t, pp * longest t) for a
round: a micro-batch that is longer than the mean costs each stage the difference. Equal numbers of tokens do not mean
equal times: a decode with a context of 7000 tokens costs several times one with 200, and a late chunk of a long prompt
costs more than its first. Here all sizes are seconds of the slowest stage, predicted by `gllm.engine.time_model` with
the snapshot's coefficients a (step), b (token), c (token of a chunk times token of its context), d (token of a decode's
context) and e (sampled row).

The structure is the paper's (gLLM, arXiv 2504.14775, equations 1 to 4); each formula states its difference.
"""

from __future__ import annotations

from gllm.engine.policies.policy import Budget, Snapshot

_SHORTEST_SLACK = 1e-3
_TRICKLE = 1 / 16
_MOST_PREFILL = 0.95
"""Maximum share of a micro-batch's time for prefill with a TTFT target."""


def balanced(s: Snapshot) -> Budget:
    """Decodes by `pack_decodes`, and as much prefill as makes the micro-batch last the target time.

    Target = a + share of the decodes + prefill, where prefill is equation 3 in seconds:

        max(min(demand, b * #MaxP * (KV_free - reserve) / (1 - reserve)), b * #MinP)

    and none while KV_free < reserve. `demand` is `by_waiting` (equation 1) or, with a TTFT target, `by_deadline`. The
    target then changes by at most one part in pp per step (`smoothed`), and prefill gets the rest after the decodes: a
    micro-batch with few decodes, or none, gets a longer chunk. The number of tokens depends on their context; the
    scheduler computes it for each chunk (`Cost.tokens_within`).
    """
    limits, cost = s.limits, s.cost
    share = ((cost.b + cost.e) * s.total_decodes + cost.d * s.decode_context) / limits.pp
    decodes, decode_seconds = pack_decodes(s, share)
    if s.total_decodes and s.kv_free < s.kv_reserve:
        return Budget(0, len(decodes), 0.0, 0, decodes)
    least = cost.b * limits.min_prefill_tokens
    usage = max((s.kv_free - s.kv_reserve) / (1.0 - s.kv_reserve), 0.0)
    most = max(cost.b * limits.max_prefill_tokens * usage, least)
    base = cost.a + share
    demand = by_deadline(s, base) if limits.ttft_target else by_waiting(s, base)
    target = smoothed(s, base + min(max(demand, least), most), base + least, base + most)
    seconds = min(max(target - cost.a - decode_seconds, least), most)
    return Budget(limits.max_prefill_tokens, len(decodes), seconds, limits.min_prefill_tokens, decodes)


def pack_decodes(s: Snapshot, share: float) -> tuple[tuple[int, ...], float]:
    """Equation 4 in seconds: decodes worth sum / pp. Returns their indices in `ready_contexts` and their seconds.

    As in `even_decodes`, decodes stay in pp micro-batches, and the ready ones are divided among those without decodes.
    First fit in order of readiness: the one that has waited longest is always taken; one that would exceed the time is
    left to the next micro-batch, where it comes first; the shortest of these ends the packing.
    """
    cost, ready = s.cost, s.ready_contexts
    row = cost.b + cost.e
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


def by_waiting(s: Snapshot, base: float) -> float:
    """Equation 1 in seconds: the time of all waiting prefill over #T micro-batches, at least base / 16.

    #T is at least 2 pp: a burst must be spread over more than one round of the pipeline; otherwise it is a pulse that
    makes each stage wait (with the paper's #T = 8 it is one at pp = 8 and 16). But a sixteenth of `base`, the
    micro-batch without prefill, is no pulse: short prompts need not wait 2 pp steps. With one stage there is no bound.
    """
    limits, cost = s.limits, s.cost
    if limits.pp == 1:
        return float("inf")
    seconds = cost.b * s.waiting_tokens + cost.c * s.waiting_pairs
    return max(seconds / max(limits.prefill_iterations, 2 * limits.pp), _TRICKLE * base)


def by_deadline(s: Snapshot, base: float) -> float:
    """#T from the TTFT target: the prefill in a micro-batch that the most urgent request needs.

    A request whose prefill ends after `ahead` seconds of prefill work, and whose first token is due in `slack` seconds,
    needs the share r = ahead / slack of the pipeline's time. A micro-batch with `base` seconds of other work then has
    base * r / (1 - r) of prefill. The slack is the target minus the age minus the time through the stages, pp * base.
    (Earliest deadline first: the processor demand criterion of Baruah, Rosier, Howell 1990, for arrivals in order.)
    """
    limits, cost = s.limits, s.cost
    due = limits.ttft_target - limits.pp * base
    ahead = needed = 0.0
    for waiting in s.waiting:
        ahead += cost.b * waiting.tokens + cost.c * waiting.pairs
        needed = max(needed, ahead / max(due - waiting.age, _SHORTEST_SLACK))
    # Requests that are not listed arrived later: they are due after the target.
    everything = cost.b * s.waiting_tokens + cost.c * s.waiting_pairs
    needed = max(needed, everything / max(due, _SHORTEST_SLACK))
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
