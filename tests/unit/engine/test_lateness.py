"""Requests that cannot meet the TTFT target let later ones pass, and no more of them than needed."""

from __future__ import annotations

from itertools import combinations

from engine_fakes import make_sequence
from hypothesis import given
from hypothesis import strategies as st

from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.apps.simulate.simulation import Outcome, Simulation
from gllm.config import EngineConfig
from gllm.engine.kv_pages import PagePool
from gllm.engine.lateness import OVERTAKEN, postpone_late, too_many
from gllm.engine.policies import Limits
from gllm.engine.queues import RunningSet, WaitingQueue
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import Cost

COST = Cost(a=0.0, b=1e-3, c=0.0, d=0.0, e=0.0)
LIMITS = Limits.of(EngineConfig(model="", ttft_target=1.0), 1)


def in_time(jobs: list[tuple[float, float]]) -> bool:
    end = 0.0
    return all((end := end + seconds) <= due for seconds, due in jobs)


@given(jobs=st.lists(st.tuples(st.integers(1, 9), st.integers(-2, 30)), max_size=7))
def test_as_few_as_possible_are_late(jobs: list[tuple[int, int]]) -> None:
    jobs = sorted(jobs, key=lambda job: job[1])
    late = set(too_many((float(seconds), float(due)) for seconds, due in jobs))
    kept = [job for index, job in enumerate(jobs) if index not in late]
    assert in_time(kept)
    most = max(n for n in range(len(jobs) + 1) if any(in_time(list(some)) for some in combinations(jobs, n)))
    assert len(kept) == most


def queue_of(*prompts: tuple[int, float]) -> tuple[WaitingQueue, RunningSet, list[Sequence]]:
    """Return a queue with prompts of (tokens, arrival time)."""
    queue, running = WaitingQueue(), RunningSet(PagePool(1000, 16), max_num_seqs=8)
    sequences = []
    for number, (tokens, arrival) in enumerate(prompts, 1):
        seq = make_sequence(f"request-{number}", list(range(1, tokens + 1)), max_model_len=8000)
        seq.arrival_time = arrival
        seq.rank, seq.queued_tokens = (0, number), tokens
        queue.push(seq)
        sequences.append(seq)
    return queue, running, sequences


def test_a_late_request_lets_later_ones_pass_but_not_all() -> None:
    """1 ms a token and a target of 1 s: the first has waited too long, and the second would delay the two after it."""
    queue, running, (old, long, short, last) = queue_of((100, 0.0), (900, 4.5), (300, 4.6), (100, 4.9))
    postpone_late(LIMITS, COST, queue, running, now=5.0)
    assert [seq.late for seq in (old, long, short, last)] == [True, True, False, False]
    assert list(queue) == [short, last, old, long]
    assert queue.peek() is short
    queue.remove(short)
    queue.remove(last)
    assert queue.peek() is old
    passed = make_sequence("passed", [1], max_model_len=100)
    passed.rank, passed.queued_tokens = (0, 2 + OVERTAKEN), 1
    queue.push(passed)
    assert queue.peek() is old, "after 1024 later requests it is its turn"
    first = make_sequence("first", [1], max_model_len=100)
    first.rank, first.queued_tokens = (0, OVERTAKEN), 1
    queue.remove(passed)
    queue.push(first)
    assert queue.peek() is first
    for seq in (first, old, long):
        queue.remove(seq)
    assert len(queue) == queue.tokens == queue.pairs == 0
    assert queue.peek() is None


def test_what_has_had_its_first_token_is_not_late() -> None:
    queue, running, (seq,) = queue_of((100, 0.0))
    seq.tokens.append(7)
    postpone_late(LIMITS, COST, queue, running, now=50.0)
    assert not seq.late


def test_priorities_stay_apart() -> None:
    queue, running, (first, second) = queue_of((100, 0.0), (100, 4.9))
    queue.remove(second)
    second.priority, second.rank = 1, (1, 2)
    queue.push(second)
    postpone_late(LIMITS, COST, queue, running, now=5.0)
    assert first.late
    assert queue.peek() is first, "a late request is before those of lower priority"


def overloaded(*, target: float, tpot: float) -> Outcome:
    stage = StageTimes(a=2e-3, floor=10e-3, b=1e-4, d=1e-7)
    requests = make_requests(WORKLOADS["azure"], 150, seed=2, rate=12.0)
    config = EngineConfig(
        model="", policy="balanced", enable_prefix_caching=False, ttft_target=target, tpot_target=tpot
    )
    return Simulation(config, Hardware(stages=(stage,), kv_tokens=400_000), requests, seed=1).run()


def test_under_overload_most_requests_still_meet_both_targets() -> None:
    def met(outcome: Outcome) -> int:
        return sum(record.ttft <= 1.0 and (record.tpot or 0.0) <= 0.03 for record in outcome.records)

    with_targets, without = overloaded(target=1.0, tpot=0.03), overloaded(target=0.0, tpot=0.0)
    assert met(with_targets) > 2 * met(without)
    tpots = sorted(record.tpot or 0.0 for record in with_targets.records)
    assert tpots[int(0.95 * len(tpots))] <= 0.03, "under overload TPOT comes first"
