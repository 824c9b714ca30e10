"""The event loop of a simulation: arrivals, results and stage reports in order of time, with the real scheduler."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from itertools import compress
from statistics import fmean, pstdev

import msgspec

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.window import Window
from gllm.apps.simulate.hardware import Hardware
from gllm.apps.simulate.pipeline import Pipeline, StageIntervals
from gllm.apps.simulate.replay import Recorder
from gllm.config import EngineConfig
from gllm.engine.kv_pages import PagePool, root_digest
from gllm.engine.results import OutputsByClient
from gllm.engine.scheduler import Scheduler
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import Work
from gllm.engine.trace import TraceWriter
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import SchedulerOutput, StageReport, StepResult


class SimulationError(RuntimeError):
    """The scheduler never finishes some requests: there is a bug in it or in a policy."""


@dataclass
class Outcome:
    """The record of one run. Times are simulated seconds."""

    records: list[RequestRecord]
    duration: float
    """Seconds from the first arrival to the last token."""
    present: float
    """Seconds with a micro-batch in flight."""
    busy: list[float]
    """Seconds of computation of each stage."""
    preemptions: int
    works: list[Work] = field(default_factory=list)
    """The work of each micro-batch."""
    sent: list[float] = field(default_factory=list)
    """Time at which each micro-batch was sent."""
    stage_seconds: list[float] = field(default_factory=list)
    """Seconds of each micro-batch on its slowest stage."""
    intervals: list[list[tuple[float, float]]] = field(default_factory=list)
    """(start, seconds) of each micro-batch on each stage."""
    prediction_error: float = 0.0
    """Relative error of the scheduler's time model at the end, mean over the stages."""

    @property
    def bubble(self) -> float:
        """Share of the time with a micro-batch in flight in which a stage is idle; mean over the stages."""
        return 1.0 - fmean(self.busy) / self.present if self.present else 0.0

    @property
    def tokens(self) -> tuple[float, float]:
        """Mean and standard deviation of a micro-batch's tokens."""
        values = [work.tokens for work in self.works]
        return fmean(values), pstdev(values)

    @property
    def time_cv(self) -> float:
        """Coefficient of variation of a micro-batch's time on its slowest stage."""
        return pstdev(self.stage_seconds) / fmean(self.stage_seconds)

    def within(self, window: Window) -> Outcome:
        """Return the micro-batches of a window of steady load, in which at least one is always in flight.

        A micro-batch belongs to the window that sent it; the seconds of computation are those in the window itself.
        """
        inside = [window.holds(sent) for sent in self.sent]
        return replace(
            self,
            present=window.duration,
            busy=[
                sum(window.overlap(start, start + seconds) for start, seconds in stage)
                for stage in zip(*self.intervals, strict=True)
            ],
            works=list(compress(self.works, inside)),
            sent=list(compress(self.sent, inside)),
            stage_seconds=list(compress(self.stage_seconds, inside)),
            intervals=list(compress(self.intervals, inside)),
        )


class Simulation:
    """One run of a scheduler over a pipeline, from the first arrival until the last request has ended.

    At most `concurrency` requests are in flight; a later one arrives when one ends, as a client sends it.

    The engine is one thread: it takes in what has arrived, then schedules and sends steps, which cost it
    `hardware.engine` seconds each, until the scheduler has none. A run depends on its arguments alone.
    """

    def __init__(
        self,
        config: EngineConfig,
        hardware: Hardware,
        requests: Seq[BenchRequest],
        *,
        seed: int = 0,
        concurrency: int | None = None,
        trace: TraceWriter | None = None,
        recorder: Recorder | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        """on_done() is called when a request ends."""
        self.now = 0.0
        self._hardware = hardware
        self._trace = trace
        self._on_done = on_done
        self._recorder = recorder
        self._feed = recorder.start(lambda: self.now) if recorder is not None else None
        num_pages = config.num_pages or hardware.kv_tokens // config.page_size
        room = num_pages * config.page_size
        self.max_model_len = min(config.max_model_len or room, room)
        longest = max(len(request.token_ids) + request.output_len for request in requests)
        if longest > self.max_model_len:
            raise ValueError(f"a request of {longest} tokens does not fit the KV pool or max_model_len")
        pool = PagePool(num_pages, config.page_size, prefix_caching=config.enable_prefix_caching)
        self.scheduler = Scheduler(
            config,
            pool,
            max_model_len=self.max_model_len,
            pp=hardware.pp,
            step_sizes=hardware.borders,
            clock=lambda: self.now,
        )
        self._pipeline = Pipeline(hardware, seed)
        ordered = sorted(requests, key=lambda request: request.arrival)
        self._arrivals = deque(ordered[:concurrency])
        self._unsent = deque(ordered[len(self._arrivals) :])
        self._records = {
            str(request.index): RequestRecord(index=request.index, prompt_tokens=len(request.token_ids))
            for request in requests
        }
        self._in_flight: deque[tuple[SchedulerOutput, StageIntervals]] = deque()
        self._reports: list[tuple[float, int, StageReport]] = []
        self._tokens_time: dict[int, float] = {}
        """Slot -> the time at which the first stage has the token that was sampled last for it."""
        self._outcome = Outcome(list(self._records.values()), 0.0, 0.0, [], 0)

    def run(self) -> Outcome:
        while self._arrivals or self._in_flight:
            self._wait()
            self._take()
            while (step := self.scheduler.schedule()) is not None:
                self._send(step)
            if self._recorder is not None:
                self._recorder.tick(self.scheduler.stats)
        if self.scheduler.has_work:
            raise SimulationError("requests are left and the scheduler has no step")
        if self._recorder is not None:
            self._recorder.tick(self.scheduler.stats, last=True)
        outcome = self._outcome
        start = min(record.start for record in outcome.records)
        outcome.duration = max(record.start + record.latency for record in outcome.records) - start
        outcome.busy = self._pipeline.busy
        stats = self.scheduler.stats()
        outcome.preemptions = stats.num_preemptions
        outcome.prediction_error = fmean(stage.prediction_error for stage in stats.stages)
        return outcome

    def _wait(self) -> None:
        """Move the clock to the next event, unless the event is in the past already."""
        times = []
        if self._in_flight:
            times.append(self._in_flight[0][1].result_time)
        if self._arrivals:
            times.append(self._arrivals[0].arrival)
        if self._reports:
            times.append(self._reports[0][0])
        before = self.now
        self.now = max(self.now, min(times))
        if self._in_flight:
            self._outcome.present += self.now - before

    def _take(self) -> None:
        """Take in everything that has arrived by now."""
        while self._arrivals and self._arrivals[0].arrival <= self.now:
            self._add(self._arrivals.popleft())
        while self._reports and self._reports[0][0] <= self.now:
            report = heapq.heappop(self._reports)[2]
            self.scheduler.observe(report)
            if self._feed is not None:
                self._feed.stage(report)
            if self._trace is not None:
                self._trace.stage(report, self.scheduler.work_of(report.step))
        while self._in_flight and self._in_flight[0][1].result_time <= self.now:
            step, stages = self._in_flight.popleft()
            result = StepResult(
                epoch=step.epoch, step=step.step, token_ids=[0] * sum(step.samples), elapsed=stages.intervals[-1][1]
            )
            outputs = self.scheduler.process_result(result)
            if self._feed is not None:
                self._feed.answered(step.step, outputs)
            self._note(outputs)
            if self._trace is not None:
                self._trace.counters(self.now, self.scheduler.stats())

    def _add(self, request: BenchRequest) -> None:
        self._records[str(request.index)].start = request.arrival
        sampling = SamplingParams(max_tokens=request.output_len, ignore_eos=True, seed=0)
        self.scheduler.add(
            Sequence(
                str(request.index),
                request.token_ids,
                sampling,
                max_model_len=self.max_model_len,
                root=root_digest(""),
                client=b"simulation",
                arrival_time=request.arrival,
            )
        )

    def _send(self, step: SchedulerOutput) -> None:
        busy_from = self.now
        self.now += self._hardware.engine
        if self._in_flight:
            self._outcome.present += self.now - busy_from
        if self._feed is not None:
            self._feed.sent(self.scheduler.newest_batch, step.num_tokens)
        work = self.scheduler.work_of(step.step)
        assert work is not None
        tokens_time = self._tokens_time
        for sequence in step.new:
            tokens_time.pop(sequence.slot, None)
        ready = max((tokens_time.get(slot, 0.0) for slot in step.slots), default=0.0)
        stages = self._pipeline.send(work, self.now, ready)
        tokens_time |= {
            slot: stages.tokens_time for slot, samples in zip(step.slots, step.samples, strict=True) if samples
        }
        self._in_flight.append((step, stages))
        for stage, (start, elapsed) in enumerate(stages.intervals):
            report = StageReport(epoch=step.epoch, step=step.step, stage=stage, started=start, elapsed=elapsed)
            due = start + elapsed + self._hardware.result
            heapq.heappush(self._reports, (due, step.step * self._hardware.pp + stage, report))
        self._outcome.works.append(work)
        self._outcome.sent.append(self.now)
        self._outcome.stage_seconds.append(max(elapsed for _, elapsed in stages.intervals))
        self._outcome.intervals.append(stages.intervals)

    def _note(self, outputs: OutputsByClient) -> None:
        for output in outputs.get(b"simulation", ()):
            record = self._records[output.request_id]
            record.latency = self.now - record.start
            record.output_tokens += len(output.token_ids)
            record.pieces.append((record.latency, float(len(output.token_ids))))
            record.finish_reason = output.finish_reason or ""
            record.error = output.error or ""
            if output.finish_reason:
                self._on_done()
            if output.finish_reason and self._unsent:
                following = self._unsent.popleft()
                arrival = max(following.arrival, self.now)
                self._arrivals.append(msgspec.structs.replace(following, arrival=arrival))
