"""Measurements of a serving engine: step times, stages, counters. No clock of its own: times are arguments."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from gllm.engine.safety_margin import SafetyMargin
from gllm.engine.stage_model import TimeModel
from gllm.engine.time_model import Work
from gllm.wire.messages import (
    ITERATION_EDGES,
    MICROBATCH_EDGES,
    EngineStats,
    StageReport,
    StageStats,
    TokenHistogram,
)

WINDOW_SECONDS = 30.0
_STEP_TIMES = 16
_REMEMBERED_STEPS = 256
"""Steps whose work is kept for the stages' reports, which may come after the results."""


class Meter:
    """Counts and times of one engine: the source of its `EngineStats` and of a policy's measured times."""

    def __init__(self, pp: int, now: float) -> None:
        self.step_times: deque[float] = deque(maxlen=_STEP_TIMES)
        """Seconds of the last steps, oldest first."""
        self.times = TimeModel(pp)
        self.margin = SafetyMargin()
        self.last_progress = now
        """The time at which a step's result last arrived, or at which work arrived after an idle time."""
        self.num_preemptions = 0
        self.cache_queries = 0
        """Prompt tokens looked up in the prefix cache."""
        self.cache_hits = 0
        """Prompt tokens found there."""
        self._pp = pp
        self._stages = StageTracker(pp, now)
        self._iterations = TokenCounter(ITERATION_EDGES)
        self._works: dict[int, Work] = {}

    def scheduled(self, step: int, work: Work, now: float) -> None:
        """Record that a micro-batch was sent to the stages."""
        self._works[step] = work
        self._works.pop(step - _REMEMBERED_STEPS, None)
        self._stages.scheduled(now)

    def answered(self, work: Work, elapsed: float, now: float) -> None:
        """Record that the result of the oldest micro-batch arrived; it took the last stage `elapsed` seconds."""
        self.last_progress = now
        self._stages.answered(now, work)
        self.step_times.append(elapsed)

    def count_tokens(self, tokens: int) -> None:
        """Count an answered step's prompt tokens and generated tokens."""
        if tokens:
            self._iterations.add(tokens)

    def observe(self, report: StageReport, now: float) -> None:
        """Learn the time of a step on a stage. A report of an unknown stage or of a long past step is ignored."""
        work = self.work_of(report.step)
        if work is not None and 0 <= report.stage < self._pp:
            self._stages.observe(now, report.stage, report.elapsed)
            self.margin.observe(work, self.times.cost, report.elapsed)
            self.times.observe(report.stage, work, report.elapsed)

    def work_of(self, step: int) -> Work | None:
        """Return the work of a recent step; None if it is not remembered."""
        return self._works.get(step)

    def stats(self, now: float) -> EngineStats:
        """Return the measured part of the stats; the scheduler adds its queues."""
        return EngineStats(
            num_preemptions=self.num_preemptions,
            prefix_cache_queries=self.cache_queries,
            prefix_cache_hits=self.cache_hits,
            step_time=self.step_times[-1] if self.step_times else 0.0,
            stages=self._stages.stages(now, [stage.error for stage in self.times.stages]),
            microbatch_prefill=self._stages.prefill_tokens,
            microbatch_decode=self._stages.decode_tokens,
            iterations=self._iterations.read(),
        )


class StageTracker:
    """Busy and bubble shares of the stages, over a sliding window.

    *Present* is the time with at least one micro-batch in flight, on the engine's clock. The *busy* time of a stage is
    the sum of its reported seconds of compute. Then

        busy share   = busy / window
        bubble share = 1 - busy / present

    So an idle server has no bubble; a single decode over pp stages has a bubble of at least 1 - 1/pp; a full pipeline
    of equal micro-batches and stages has none. The bubble is the time with work but without compute: filling and
    draining, unequal micro-batches, unequal stages, transfers, and the engine's own time. Only durations on the
    stages' clocks are used, so that clocks of different nodes need not agree.
    """

    def __init__(self, pp: int, now: float, *, window: float = WINDOW_SECONDS) -> None:
        self._window = window
        self._began = now
        self._advanced = now
        self._in_flight = 0
        self._present = 0.0
        self._busy = [0.0] * pp
        self._last = [0.0] * pp
        self._events: deque[tuple[float, int, float]] = deque()
        """(time, stage or -1 for present, seconds), oldest first; the sums above cover these."""
        self._prefill = TokenCounter(MICROBATCH_EDGES)
        self._decode = TokenCounter(MICROBATCH_EDGES)

    def scheduled(self, now: float) -> None:
        """Record that a micro-batch was sent to the stages."""
        self._advance(now)
        self._in_flight += 1

    def answered(self, now: float, work: Work) -> None:
        """Record that the result of the oldest micro-batch arrived."""
        self._advance(now)
        self._in_flight -= 1
        self._prefill.add(work.prefill_tokens)
        self._decode.add(work.decode_rows)

    def observe(self, now: float, stage: int, elapsed: float) -> None:
        """Record that a stage has computed a micro-batch in `elapsed` seconds."""
        elapsed = min(max(elapsed, 0.0), self._window)
        self._advance(now)
        self._busy[stage] += elapsed
        self._last[stage] = elapsed
        self._events.append((now, stage, elapsed))

    def stages(self, now: float, errors: list[float]) -> list[StageStats]:
        """Return the stats of each stage in the window. errors: the relative error of each stage's time model."""
        self._advance(now)
        length = max(min(self._window, now - self._began), 1e-9)
        return [
            StageStats(
                busy=min(max(busy / length, 0.0), 1.0),  # Rounding may leave a sum below zero.
                bubble=min(max(1.0 - busy / self._present, 0.0), 1.0) if self._present > 0.0 else 0.0,
                step_time=last,
                prediction_error=error,
            )
            for busy, last, error in zip(self._busy, self._last, errors, strict=True)
        ]

    @property
    def prefill_tokens(self) -> TokenHistogram:
        """Prefill tokens of all micro-batches."""
        return self._prefill.read()

    @property
    def decode_tokens(self) -> TokenHistogram:
        """Decode tokens of all micro-batches."""
        return self._decode.read()

    def _advance(self, now: float) -> None:
        """Add the time since the last call, and remove events that have left the window."""
        passed = now - self._advanced
        self._advanced = now
        events = self._events
        if self._in_flight and passed > 0.0:
            self._present += passed
            events.append((now, -1, passed))
        start = now - self._window
        while events and events[0][0] < start:
            _, stage, seconds = events.popleft()
            if stage < 0:
                self._present -= seconds
            else:
                self._busy[stage] -= seconds
        if not events:
            # Remove what rounding left of empty sums.
            self._present = 0.0
            self._busy = [0.0] * len(self._busy)


class TokenCounter:
    """Collects a `TokenHistogram`."""

    def __init__(self, edges: tuple[int, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._total = 0

    def add(self, tokens: int) -> None:
        self._counts[bisect_left(self._edges, tokens)] += 1
        self._total += tokens

    def read(self) -> TokenHistogram:
        return TokenHistogram(list(self._counts), self._total)
