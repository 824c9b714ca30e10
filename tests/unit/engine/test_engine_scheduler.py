"""Behaviour of the scheduler, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_fakes import EOS, FakeWorker, generate, make_sequence, next_token

from gllm.config import EngineConfig
from gllm.engine.batch import BatchBuilder
from gllm.engine.kv_pages import PagePool
from gllm.engine.policies import Budget
from gllm.engine.scheduler import Scheduler
from gllm.wire.messages import RequestOutput, SchedulerOutput, StageReport, StepResult


class Bench:
    """A scheduler over a small pool, and its worker."""

    def __init__(self, *, pp: int = 1, num_pages: int = 64, page_size: int = 4, **settings: Any) -> None:
        config = EngineConfig(model="", **{"max_num_seqs": 8, "max_prefill_tokens": 64, **settings})
        self.pool = PagePool(num_pages, page_size, prefix_caching=config.enable_prefix_caching)
        self.time = 0.0
        self.scheduler = Scheduler(
            config, self.pool, max_model_len=num_pages * page_size, pp=pp, clock=lambda: self.time
        )
        self.worker = FakeWorker(num_pages, page_size, config.max_num_seqs)
        self.results: list[StepResult] = []

    def add(self, request_id: str, prompt: list[int], **options: Any) -> None:
        self.scheduler.add(make_sequence(request_id, prompt, max_model_len=self.scheduler.max_model_len, **options))

    def schedule(self) -> SchedulerOutput:
        scheduled = self.scheduler.schedule()
        assert scheduled is not None
        self.results.append(self.worker.execute(scheduled))
        return scheduled

    def report(self, step: int, stage: int) -> None:
        self.scheduler.observe(StageReport(epoch=0, step=step, stage=stage, started=0.0, elapsed=1e-3))

    def answer(self) -> list[RequestOutput]:
        outputs = self.scheduler.process_result(self.results.pop(0))
        return [output for entries in outputs.values() for output in entries]

    def run(self) -> Iterator[RequestOutput]:
        """Run until all requests end. Yields their outputs."""
        while True:
            while (scheduled := self.scheduler.schedule()) is not None:
                self.results.append(self.worker.execute(scheduled))
            if not self.results:
                return
            yield from self.answer()


def tokens_of(outputs: Iterator[RequestOutput] | list[RequestOutput], request_id: str) -> list[int]:
    return [token for output in outputs if output.request_id == request_id for token in output.token_ids]


def test_the_next_decode_is_scheduled_before_the_last_token_is_known() -> None:
    bench = Bench()
    bench.add("a", [1, 2, 3], stop_token_ids=())
    assert bench.schedule().samples == [True]
    second = bench.schedule()
    assert (second.slots, second.num_tokens, second.new) == ([0], [1], [])
    assert bench.scheduler.schedule() is None, "two steps are in flight"
    [output] = bench.answer()
    assert output.token_ids == [next_token([1, 2, 3])]


def test_with_more_stages_a_decode_waits_until_its_last_step_is_on_the_last_stage() -> None:
    bench = Bench(pp=3)
    bench.add("a", [1, 2, 3], stop_token_ids=())
    bench.schedule()
    bench.report(1, stage=0)
    assert bench.scheduler.schedule() is None
    bench.report(1, stage=1)
    assert bench.schedule().num_tokens == [1]
    assert bench.scheduler.schedule() is None
    [output] = bench.answer()
    assert output.token_ids == [next_token([1, 2, 3])]
    assert bench.scheduler.schedule() is None


def test_a_result_counts_as_a_report() -> None:
    bench = Bench(pp=2)
    bench.add("a", [1, 2, 3], stop_token_ids=())
    bench.schedule()
    bench.answer()
    assert bench.schedule().num_tokens == [1]
    bench.report(1, stage=0)
    assert bench.scheduler.schedule() is None, "the report of an earlier step says nothing about the one in flight"


def test_full_pipeline_rotates_pp_micro_batches_one_step_ahead_of_the_tokens() -> None:
    bench = Bench(pp=2, min_prefill_tokens=64)
    for request_id in "abcd":
        bench.add(request_id, [ord(request_id)], max_tokens=50, stop_token_ids=())
    bench.schedule()
    bench.answer()
    first, second = bench.schedule(), bench.schedule()
    assert sorted([*first.slots, *second.slots]) == [0, 1, 2, 3]
    assert bench.scheduler.schedule() is None, "one on the first stage, one that waits for it"
    bench.report(first.step, stage=0)
    assert bench.schedule().slots == first.slots
    assert bench.scheduler.schedule() is None
    bench.report(second.step, stage=0)
    assert bench.scheduler.schedule() is None, "pp + 1 are in flight"
    bench.answer()
    assert bench.schedule().slots == second.slots


def test_a_sequence_that_was_preempted_meanwhile_is_not_ready() -> None:
    bench = Bench(pp=2)
    bench.add("a", [1, 2, 3], stop_token_ids=())
    bench.schedule()
    bench.scheduler._preempt(bench.scheduler._running.last_in_order())
    bench.report(1, stage=0)
    assert not bench.scheduler._running.ready
    assert bench.scheduler.schedule() is None, "its token is in flight"
    bench.answer()
    assert bench.schedule().num_tokens == [4]


def test_chunks_of_one_prompt_are_in_successive_micro_batches() -> None:
    bench = Bench(pp=3, max_prefill_tokens=8, policy="chunked_prefill")
    bench.add("a", list(range(28)), max_tokens=1)
    steps = [bench.schedule() for _ in range(3)]
    assert bench.scheduler.schedule() is None, "one for each stage before the last, and one that waits"
    bench.report(1, stage=1)
    steps.append(bench.schedule())
    assert [scheduled.num_tokens for scheduled in steps] == [[8], [8], [8], [4]]
    assert [scheduled.samples for scheduled in steps] == [[False], [False], [False], [True]]
    assert [len(scheduled.new) for scheduled in steps] == [1, 0, 0, 0]
    assert [bench.answer() for _ in range(3)] == [[], [], []]
    [output] = bench.answer()
    assert output.finish_reason == "length"


def test_max_tokens_is_never_exceeded() -> None:
    bench = Bench()
    bench.add("a", [1, 2, 3], max_tokens=2, stop_token_ids=())
    bench.schedule()
    bench.schedule()
    bench.answer()
    assert bench.scheduler.schedule() is None
    assert [output.finish_reason for output in bench.answer()] == ["length"]
    assert not bench.scheduler.has_work
    assert bench.pool.num_free == bench.pool.num_pages


def test_the_context_ends_a_request_without_max_tokens() -> None:
    bench = Bench(num_pages=3)
    bench.add("a", [1, 2, 3], max_tokens=None, stop_token_ids=())
    outputs = list(bench.run())
    assert len(tokens_of(outputs, "a")) == 9
    assert outputs[-1].finish_reason == "length"


def test_a_token_sampled_after_eos_is_discarded() -> None:
    prompt = next(p for p in ([i, 0] for i in range(1000)) if EOS in generate(p, make_sequence("", p).sampling, 99)[1:])
    bench = Bench()
    bench.add("a", prompt)
    outputs = list(bench.run())
    assert tokens_of(outputs, "a") == generate(prompt, make_sequence("", prompt).sampling, 99)
    assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == ("stop", EOS)
    assert bench.scheduler.num_in_flight == 0


def test_min_tokens_keeps_a_stop_token_from_ending_the_request() -> None:
    prompt = next([i, 0] for i in range(1000) if next_token([i, 0]) == EOS)
    bench = Bench()
    bench.add("a", prompt, min_tokens=3, max_tokens=3)
    assert [len(tokens_of(list(bench.run()), "a"))] == [3]


def test_scoring_a_prompt_generates_nothing() -> None:
    bench = Bench(max_prefill_tokens=4, policy="chunked_prefill")
    bench.add("a", [1, 2, 3, 4, 5, 6], max_tokens=0, prompt_logprobs=0)
    [output] = list(bench.run())
    assert output.token_ids == []
    assert output.finish_reason == "length"
    assert output.prompt_logprobs is not None
    assert [entry.token_id if entry else None for entry in output.prompt_logprobs] == [None, 2, 3, 4, 5, 6]


def test_a_prompt_seen_before_comes_from_the_cache_but_for_its_last_token() -> None:
    bench = Bench()
    prompt = list(range(16))
    bench.add("a", prompt)
    first = list(bench.run())
    bench.add("b", prompt)
    scheduled = bench.schedule()
    assert scheduled.new[0].num_computed_tokens == 12, "never the whole prompt"
    assert scheduled.num_tokens == [4]
    second = [*bench.answer(), *bench.run()]
    assert tokens_of(second, "b") == tokens_of(first, "a")
    assert second[0].num_cached_tokens == 12
    stats = bench.scheduler.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (32, 12)


def test_generated_tokens_are_cached_too() -> None:
    bench = Bench()
    bench.add("a", list(range(6)), max_tokens=11, stop_token_ids=())
    answer = tokens_of(bench.run(), "a")
    bench.add("b", [*range(6), *answer, 1, 2])
    assert bench.schedule().new[0].num_computed_tokens == 16


@pytest.mark.parametrize("options", [{"salt": "other"}, {"prompt_logprobs": 1}])
def test_requests_that_do_not_use_the_cache(options: dict[str, Any]) -> None:
    bench = Bench()
    bench.add("a", list(range(16)))
    list(bench.run())
    bench.add("b", list(range(16)), **options)
    assert bench.schedule().new[0].num_computed_tokens == 0


def test_waiting_tokens_are_net_of_prefix_hits() -> None:
    bench = Bench(max_num_seqs=1)
    bench.add("a", list(range(16)), max_tokens=4, stop_token_ids=())
    bench.schedule()
    bench.add("b", [*range(16), 40, 41])
    assert bench.scheduler.snapshot().waiting_tokens == 2
    assert bench.scheduler.stats().num_waiting == 1


def test_smaller_priority_is_served_first_then_arrival() -> None:
    bench = Bench(max_num_seqs=1)
    for request_id, priority in (("late", 1), ("a", 0), ("b", 0), ("urgent", -5)):
        bench.add(request_id, [1, 2, 3], priority=priority, max_tokens=1)
    assert [output.request_id for output in bench.run()] == ["urgent", "a", "b", "late"]


def test_the_latest_of_the_lowest_priority_is_preempted_and_continues() -> None:
    bench = Bench(num_pages=6, kv_threshold=0.0)
    for request_id, priority in (("first", 0), ("low", 1), ("last", 0)):
        bench.add(request_id, [len(request_id)] * 7, priority=priority, max_tokens=8, stop_token_ids=())
    outputs = list(bench.run())
    assert bench.scheduler.stats().num_preemptions > 0
    ended = {output.request_id: output for output in outputs if output.finish_reason}
    assert ended["first"].num_preemptions == 0
    assert ended["low"].num_preemptions >= 1
    for request_id in ended:
        prompt = [len(request_id)] * 7
        assert tokens_of(outputs, request_id) == generate(
            prompt, make_sequence("", prompt, stop_token_ids=()).sampling, 99
        )


def test_an_abort_frees_pages_and_slot_for_the_next_step() -> None:
    bench = Bench(num_pages=4, max_num_seqs=1)
    bench.add("a", list(range(12)), stop_token_ids=())
    bench.add("b", [9] * 12)
    first = bench.schedule()
    output = bench.scheduler.abort("a")
    assert output is not None
    assert output.finish_reason == "abort"
    assert bench.pool.num_free == 4
    second = bench.schedule()
    assert second.freed == first.slots == second.slots
    assert bench.answer() == [], "tokens of the aborted request are dropped"
    assert bench.scheduler.abort("a") is None


def test_only_the_client_of_a_request_may_abort_it() -> None:
    bench = Bench()
    bench.add("a", [1], client=b"one")
    assert bench.scheduler.abort("a", b"two") is None
    assert bench.scheduler.requests_of(b"one") == ["a"]
    assert bench.scheduler.abort("a", b"one") is not None


def test_a_failed_row_ends_its_request_only() -> None:
    bench = Bench()
    bench.add("a", [1, 2], max_tokens=2, stop_token_ids=())
    bench.add("b", [3, 4], max_tokens=2, stop_token_ids=())
    bench.schedule()
    bench.results[0].errors = [(0, "bad grammar")]
    bench.results[0].token_ids[0] = -1
    failed, good = bench.answer()
    assert (failed.request_id, failed.finish_reason, failed.error) == ("a", "error", "bad grammar")
    assert (good.request_id, good.finish_reason) == ("b", None)
    assert [output.finish_reason for output in bench.run()] == ["length"]


@pytest.mark.parametrize("change", [{"step": 9}, {"token_ids": []}, {"token_ids": [1, 2]}, {"logprobs": [None, None]}])
def test_an_answer_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    bench = Bench()
    bench.add("a", [1, 2])
    bench.schedule()
    for field, value in change.items():
        setattr(bench.results[0], field, value)
    with pytest.raises(ValueError, match="step"):
        bench.answer()


def test_the_first_token_has_the_times() -> None:
    bench = Bench(max_num_seqs=1)
    bench.add("a", [1], max_tokens=1)
    bench.time = 3.0
    bench.schedule()
    bench.time = 5.0
    [output] = bench.answer()
    assert (output.queue_time, output.prefill_time) == (3.0, 2.0)


def test_progress_is_measured_only_while_there_is_work() -> None:
    bench = Bench()
    bench.time = 100.0
    assert bench.scheduler.stats().seconds_since_progress == 0.0
    bench.add("a", [1], max_tokens=1)
    bench.time = 107.0
    assert bench.scheduler.stats().seconds_since_progress == 7.0
    bench.schedule()
    bench.time = 110.0
    assert bench.scheduler.stats().seconds_since_progress == 10.0
    bench.answer()
    assert bench.scheduler.stats().seconds_since_progress == 0.0


def test_stats_describe_the_last_step() -> None:
    bench = Bench()
    bench.add("a", [1, 2, 3], stop_token_ids=())
    bench.schedule()
    bench.schedule()
    bench.answer()
    bench.results[0].elapsed = 0.25
    bench.answer()
    stats = bench.scheduler.stats()
    assert (stats.step, stats.step_time) == (2, 0.25)
    assert (stats.num_running, stats.num_inflight, stats.kv_usage) == (1, 0, 1 / 64)


def test_iterations_count_prompt_and_generated_tokens_of_every_step() -> None:
    bench = Bench()
    bench.add("a", [1] * 9, max_tokens=40, stop_token_ids=())
    assert len(tokens_of(bench.run(), "a")) == 40
    iterations = bench.scheduler.stats().iterations
    assert (sum(iterations.counts), iterations.total) == (40, 9 + 40)
    assert iterations.counts[:3] == [39, 0, 1]


def test_prefills_are_admitted_only_if_they_can_end() -> None:
    bench = Bench(num_pages=8, max_prefill_tokens=4, policy="chunked_prefill", enable_prefix_caching=False)
    bench.add("late", [2] * 16, priority=1, max_tokens=1)
    bench.schedule()
    bench.add("large", [1] * 20, max_tokens=1)
    assert bench.schedule().new == [], "20 tokens beside the 12 that `late` still needs are one page too many"
    assert [output.request_id for output in bench.run()] == ["late", "large"]


def test_a_preempted_sequence_waits_for_its_token_in_flight() -> None:
    bench = Bench(num_pages=4, policy="chunked_prefill")
    for request_id in ("a", "b"):
        bench.add(request_id, [ord(request_id)] * 7, max_tokens=6, stop_token_ids=())
    bench.schedule()
    bench.schedule()
    first = bench.answer()
    third = bench.schedule()  # `a` needs a third page: `b`, whose second token is in flight, gives its two
    assert third.slots == [0]
    assert third.freed == [1]
    bench.scheduler.abort("a")
    assert bench.scheduler.schedule() is None, "two are in flight"
    second = bench.answer()
    assert [output.request_id for output in second] == ["b"]
    again = bench.schedule()
    assert again.new[0].token_ids == [ord("b")] * 7 + tokens_of([*first, *second], "b")
    rest = list(bench.run())
    sampling = make_sequence("", [ord("b")] * 7, max_tokens=6, stop_token_ids=()).sampling
    assert tokens_of([*first, *second, *rest], "b") == generate([ord("b")] * 7, sampling, 99)


def test_with_room_again_it_still_waits_for_its_token_in_flight() -> None:
    bench = Bench(pp=3, num_pages=6, policy="chunked_prefill", max_num_seqs=2)
    bench.add("b", [2] * 7, priority=1, max_tokens=6, stop_token_ids=())
    bench.schedule()
    first = bench.answer()
    bench.schedule()  # the second token of `b`
    victim = bench.scheduler._running.last_in_order()
    bench.scheduler._preempt(victim)
    assert bench.scheduler.schedule() is None
    second = bench.answer()
    scheduled = bench.schedule()
    assert scheduled.new[0].token_ids == [2] * 7 + tokens_of([*first, *second], "b")


def test_when_all_chosen_decodes_were_preempted_others_are_chosen() -> None:
    bench = Bench(pp=2, num_pages=4)
    bench.add("low", [1] * 8, priority=1, max_tokens=6, stop_token_ids=())
    bench.schedule()
    bench.add("high", [2] * 8, max_tokens=6, stop_token_ids=())
    bench.schedule()
    bench.answer()
    bench.answer()
    assert bench.schedule().slots == [1], "`low` is the first in order and the first to be preempted"
    assert bench.scheduler.stats().num_preemptions == 1


def test_prefill_continues_when_the_only_decode_was_preempted() -> None:
    bench = Bench(pp=2, num_pages=4, max_prefill_tokens=4, min_prefill_tokens=4, kv_threshold=0.3)
    bench.add("low", [1] * 4, priority=1, max_tokens=4, stop_token_ids=())
    bench.schedule()
    bench.add("high", [2] * 12, max_tokens=1, stop_token_ids=())
    bench.answer()
    bench.scheduler._add_prefills(batch := BatchBuilder(bench.scheduler._running, 2), Budget(11, 0))
    assert len(batch.rows) == 1
    bench.scheduler._step += 1
    bench.scheduler._in_flight.batches.append(batch.micro_batch())
    bench.results.append(bench.worker.execute(batch.scheduler_output(0)))
    assert bench.pool.num_free == 0
    bench.answer()
    assert bench.schedule().slots == [1], "`low` needs a page and is preempted; then prefill continues"
    assert {output.request_id for output in bench.run() if output.finish_reason} == {"low", "high"}


def test_decodes_beyond_the_budget_take_turns() -> None:
    bench = Bench()
    bench.scheduler._policy = lambda snapshot: Budget(prefill_tokens=64, decode_rows=2)
    for request_id in ("a", "b", "c"):
        bench.add(request_id, [1], max_tokens=9, stop_token_ids=())
    assert bench.schedule().slots == [0, 1, 2]
    turns: list[int] = []
    for _ in range(6):
        turns += bench.schedule().slots
        bench.answer()
    assert turns == [0, 1, 2] * 4


def test_a_context_longer_than_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len 65"):
        Scheduler(EngineConfig(model=""), PagePool(4, 16), max_model_len=65)
