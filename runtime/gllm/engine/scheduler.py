"""The scheduler: turns requests into micro-batches, one SchedulerOutput at a time, and step results into outputs.

It has no sockets, and no clock except its argument. Workers run steps in order, so a step may reuse pages and slots
that were freed here while earlier steps are still in flight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from operator import attrgetter

from gllm.config import EngineConfig
from gllm.engine.batch import BatchBuilder, MicroBatch
from gllm.engine.borders import NO_SIZES, StepSizes, on_border
from gllm.engine.forecast import forecast
from gllm.engine.grammars import Grammars
from gllm.engine.in_flight import InFlight
from gllm.engine.kv_pages import PagePool, extend_digests
from gllm.engine.lateness import postpone_late
from gllm.engine.meter import Meter
from gllm.engine.policies import (
    POLICIES,
    TIME_AWARE,
    Budget,
    Limits,
    Snapshot,
    adapted_reserve,
    step_seconds,
    within_bound,
)
from gllm.engine.queues import RunningSet, WaitingQueue
from gllm.engine.results import OutputsByClient, ResultReader
from gllm.engine.sequence import Sequence, SequenceStatus
from gllm.engine.snapshot import take_snapshot, waiting_tokens
from gllm.engine.time_model import Work
from gllm.wire.messages import EngineStats, GrammarReady, RequestOutput, SchedulerOutput, StageReport, StepResult

_rank = attrgetter("rank")


class Scheduler:
    """Continuous batching with chunked prefill, a prefix cache, priorities and preemption by recompute.

    Up to pp + 1 micro-batches are in flight: call `schedule` until it returns None, `observe` for each report of a
    stage, and `process_result` for each result. When a step reaches the last stage, the next step of its sequences may
    be scheduled: the first stage gets it before it gets the sampled tokens, which come from the last stage and not from
    here. The number of tokens is known before results arrive, so max_tokens is never exceeded. Tokens that were sampled
    after an EOS that was not known here are discarded.
    """

    def __init__(
        self,
        config: EngineConfig,
        pool: PagePool,
        *,
        max_model_len: int,
        pp: int = 1,
        epoch: int = 0,
        step_sizes: StepSizes = NO_SIZES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """step_sizes: of captured steps with prompts."""
        if max_model_len > pool.num_pages * pool.page_size:
            raise ValueError(f"max_model_len {max_model_len} does not fit {pool.num_pages} pages of {pool.page_size}")
        self.pool = pool
        self.pp = pp
        self.epoch = epoch
        self.max_model_len = max_model_len
        self._clock = clock
        self._step_sizes = step_sizes
        self._limits = Limits.of(config, pp)
        self._policy = POLICIES[config.policy]
        self._sees_time = config.policy in TIME_AWARE
        self._reserve = config.kv_threshold
        self._running = RunningSet(pool, max_num_seqs=config.max_num_seqs)
        self._queue = WaitingQueue()
        self._requests: dict[str, Sequence] = {}
        self.grammars = Grammars()
        self._results = ResultReader(self._requests, self._queue, self._running, self.grammars, clock)
        self._in_flight = InFlight(pp)
        self._step = 0
        self._arrivals = 0
        self._meter = Meter(pp, clock())

    # --- requests ------------------------------------------------------------------------------------

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    @property
    def has_work(self) -> bool:
        """Whether there are live requests or steps in flight."""
        return bool(self._requests or self._in_flight)

    @property
    def _busy(self) -> bool:
        """Whether a step is in flight or could be scheduled."""
        return bool(self._in_flight or self._queue or self._running.members)

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    def add(self, seq: Sequence) -> None:
        """Queue a new request. Its id must not be live, and its prompt must fit max_model_len."""
        assert seq.request_id not in self._requests
        assert 0 < seq.num_prompt <= self.max_model_len
        if self.pool.prefix_caching:
            extend_digests(seq.digests, seq.root, seq.tokens, self.pool.page_size)
        if self.grammars.claim(seq):
            self._enqueue(seq)
        else:
            seq.status = SequenceStatus.PREPARING
        self._requests[seq.request_id] = seq

    def _enqueue(self, seq: Sequence) -> None:
        if not self._busy:
            self._meter.last_progress = self._clock()
        self._arrivals += 1
        seq.rank = (seq.priority, self._arrivals)
        seq.status = SequenceStatus.WAITING
        seq.queued_tokens = seq.num_prompt
        self._queue.push(seq)
        self._queue.estimate_hits(seq, self.pool)

    def process_grammar(self, ready: GrammarReady) -> OutputsByClient:
        """Queue the requests that waited for a grammar, or fail them. Returns outputs by client."""
        outputs: OutputsByClient = {}
        for seq in self.grammars.compiled(ready.number, failed=bool(ready.error)):
            if ready.error:
                self._results.fail(seq, ready.error, outputs, invalid_request=True)
            else:
                self._enqueue(seq)
        return outputs

    def abort(self, request_id: str, client: bytes | None = None) -> RequestOutput | None:
        """End a request: its pages and slot are free for the next step.

        Returns its last output; None if it is not live or belongs to another client.
        """
        seq = self._requests.get(request_id)
        if seq is None or (client is not None and seq.client != client):
            return None
        self._results.finish(seq)
        return RequestOutput(
            request_id=request_id, token_ids=[], finish_reason="abort", num_preemptions=seq.num_preemptions
        )

    def requests_of(self, client: bytes) -> list[str]:
        """Return the ids of a client's live requests."""
        return [seq.request_id for seq in self._requests.values() if seq.client == client]

    # --- steps ---------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput | None:
        """Return the next micro-batch; None if enough are in flight or nothing can be scheduled."""
        running = self._running
        if self._in_flight.full:
            return None
        while self._queue or running.prefilling or running.ready:
            preemptions = self._meter.num_preemptions
            batch = self._build()
            if batch.rows:
                self._step += 1
                micro_batch = batch.micro_batch()
                self._in_flight.batches.append(micro_batch)
                self._meter.scheduled(self._step, micro_batch.work, self._clock())
                if self.pp == 1:
                    self._reach_last_stage(self._step)
                return batch.scheduler_output(self.epoch)
            if self._meter.num_preemptions == preemptions:
                return None
            # The decodes in the policy's budget were preempted: ask the policy again.
        return None

    def _build(self) -> BatchBuilder:
        """Build a micro-batch within the policy's budget; it may have no rows."""
        running = self._running
        preemptions = self._meter.num_preemptions
        if self._sees_time and self._limits.ttft_target:
            postpone_late(self._limits, self._meter.times.cost, self._queue, running, self._clock())
        budget = self._policy(self.snapshot())
        batch = BatchBuilder(running, self._step + 1)
        if running.ready and budget.decode_rows > 0:
            self._add_decodes(batch, budget)
        if budget.prefill_tokens > 0 and (self._queue or running.prefilling):
            if batch.rows or running.num_decoding:
                budget = self._bounded(batch, budget)
            self._add_prefills(batch, budget)
        self._reserve = adapted_reserve(self._reserve, self._meter.num_preemptions - preemptions, self._limits)
        return batch

    def process_result(self, result: StepResult) -> OutputsByClient:
        """Apply the result of the oldest step in flight. Returns outputs by client. Raises ValueError."""
        if result.step != self._in_flight.first_step:
            raise ValueError(f"worker answered step {result.step}, which is not the oldest in flight")
        self._reach_last_stage(result.step)
        batch = self._in_flight.pop()
        self._meter.answered(batch.work, result.elapsed, self._clock())
        outputs = self._results.read(batch, result)
        self._meter.count_tokens(batch.work.prefill_tokens + self._results.num_generated)
        return outputs

    def observe(self, report: StageReport) -> None:
        """Learn the time of a step on a stage. Reports of an earlier epoch or of a long past step are ignored."""
        if report.epoch == self.epoch:
            self._meter.observe(report, self._clock())
            if report.stage == self.pp - 2:
                self._reach_last_stage(report.step)

    def _reach_last_stage(self, step: int) -> None:
        """Record that this step and those before it have reached the last stage, or passed it."""
        for batch in self._in_flight.reach_last_stage(step):
            self._running.make_ready(batch.sampled, batch.step)

    @property
    def newest_batch(self) -> MicroBatch:
        """The micro-batch in flight that was scheduled last."""
        return self._in_flight.batches[-1]

    def work_of(self, step: int) -> Work | None:
        """Return the work of a recent step; None if it is not remembered."""
        return self._meter.work_of(step)

    def snapshot(self) -> Snapshot:
        """Return the snapshot that the policies read."""
        return take_snapshot(
            self._limits,
            self._queue,
            self._running,
            self._in_flight,
            self._meter,
            kv_reserve=self._reserve,
            now=self._clock() if self._sees_time else None,
        )

    def stats(self) -> EngineStats:
        """Return a snapshot for metrics and health."""
        now = self._clock()
        num_running = len(self._running.members)
        stats = self._meter.stats(now)
        stats.step = self._step
        stats.num_running = num_running
        stats.num_waiting = len(self._requests) - num_running
        stats.num_deferred = stats.num_waiting - len(self._queue)
        stats.num_waiting_tokens = waiting_tokens(self._queue, self._running)
        stats.forecast = forecast(self._limits, self._queue, self._running, self._meter)
        stats.kv_usage = 1.0 - self.pool.free_share
        stats.num_inflight = len(self._in_flight)
        stats.seconds_since_progress = now - self._meter.last_progress if self._busy else 0.0
        return stats

    # --- decode --------------------------------------------------------------------------------------

    def _add_decodes(self, batch: BatchBuilder, budget: Budget) -> None:
        """Add the ready decodes of the budget; preempt sequences until each decode has a page for its next token."""
        running = self._running
        ready = running.ready
        needy: list[Sequence] = []
        if budget.decodes is None:
            chosen = list(islice(ready, budget.decode_rows))
        else:
            order = list(ready)
            chosen = [order[index] for index in budget.decodes]
        while chosen:
            needy = [seq for seq in chosen if seq.num_scheduled == seq.capacity]
            while len(needy) > self.pool.num_free:
                victim = running.last_in_order()
                self._preempt(victim)
                chosen = [seq for seq in chosen if seq is not victim]
                needy = [seq for seq in needy if seq is not victim]
            if chosen:
                break
            chosen = list(islice(ready, budget.decode_rows))  # All were preempted: take the next ones.
        batch.add_decodes(chosen, needy)

    def _preempt(self, seq: Sequence) -> None:
        """Move a sequence to the front of the queue. It keeps its tokens, and gets the tokens of steps in flight."""
        self._running.vacate(seq)
        seq.status = SequenceStatus.WAITING
        seq.num_preemptions += 1
        self._meter.num_preemptions += 1
        seq.hit_pages = 0
        seq.queued_tokens = len(seq.tokens)
        self._queue.push(seq, front=True)

    # --- prefill -------------------------------------------------------------------------------------

    def _bounded(self, batch: BatchBuilder, budget: Budget) -> Budget:
        """Cut the prefill beside the batch's decodes, or beside decodes in flight, to the bound on a step's time."""
        meter, limits = self._meter, self._limits
        tokens = meter.margin.most_tokens(step_seconds(limits)) or limits.min_prefill_tokens
        base = meter.times.cost.predict(batch.work)
        return within_bound(budget, limits, base, meter.margin.factor, tokens - len(batch.rows))

    def _add_prefills(self, batch: BatchBuilder, budget: Budget) -> None:
        """Add chunks of unfinished prefills and queued requests, by priority and arrival, until the budget is spent."""
        running = self._running
        unfinished = sorted(running.prefilling, key=_rank, reverse=True)
        tokens, seconds, cost = budget.prefill_tokens, budget.prefill_seconds, self._meter.times.cost
        least = budget.least_tokens
        # Without decodes shorter chunks would only be more of them: they are extended.
        shorten = budget.shorten and running.num_decoding > 0
        beside = len(batch.rows)
        blocked = False
        while tokens > 0 and (least > 0 or seconds > cost.prefill_token):
            head = None if blocked else self._queue.peek()
            register = head is not None and (not unfinished or head.rank < unfinished[-1].rank)
            if register and head is not None:
                if not self._admit(head):
                    blocked = True
                    continue
                seq = head
            elif unfinished:
                seq = unfinished.pop()
            else:
                return
            # Decodes may have taken pages that were reserved for this prefill; they release them when they end.
            room = seq.capacity + self.pool.num_free * self.pool.page_size - seq.num_scheduled
            chunk = min(tokens, seq.num_uncomputed, room)
            if seconds < math.inf:
                # A sequence that just got its slot must be in the batch, with one token even if there is no time.
                chunk = min(chunk, max(cost.tokens_within(seconds, seq.num_scheduled, beside), least, int(register)))
            if self._step_sizes.captured and 0 < chunk < seq.num_uncomputed:
                # The step ends here, on a size: what is left of the budget would be padding.
                most = None if shorten else min(tokens, seq.num_uncomputed, room)
                tokens = chunk = on_border(chunk, beside, self._step_sizes, most)
            if seconds < math.inf:
                seconds -= cost.chunk(seq.num_scheduled, chunk, beside) + cost.e * (chunk == seq.num_uncomputed)
            if chunk == 0:
                return
            batch.add_chunk(seq, chunk, register=register)
            tokens -= chunk
            least -= chunk
            beside += chunk

    def _admit(self, seq: Sequence) -> bool:
        """Give the queue's head a slot and return True, or return False."""
        running, pool = self._running, self.pool
        if not running.free_slots or seq.last_step >= self._in_flight.first_step:
            return False
        hits = pool.lookup(seq.digests, seq.most_hits(pool.page_size))
        if not running.has_room(seq, hits):
            return False
        self._queue.remove(seq)
        running.place(seq, hits)
        if not seq.prompt_scored:
            seq.prompt_logprobs = [None]
        if seq.num_cached < 0:
            seq.first_scheduled = self._clock()
            seq.num_cached = seq.num_scheduled
            if pool.prefix_caching:
                self._meter.cache_queries += seq.num_prompt
                self._meter.cache_hits += seq.num_cached
        return True
