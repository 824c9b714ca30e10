"""Events of the pipeline for viewers. They are collected only while there are viewers, and their number is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from gllm.engine.batch import MicroBatch
from gllm.engine.results import OutputsByClient
from gllm.engine.sequence import Sequence, SequenceStatus
from gllm.wire.messages import StageReport
from gllm.wire.pipeline_events import BatchDone, BatchSent, PipelineEvents, RequestEvent, StageRun

INTERVAL = 0.1
"""Seconds between two messages to viewers."""
IDLE_INTERVAL = 1.0
"""The same while nothing happens."""
MAX_BATCHES = 100
"""Micro-batches in a message; later ones of the interval are counted only."""
MAX_ROWS = 48
"""Sequences that are named in a micro-batch."""
MAX_REQUESTS = 2048
"""Live sequences that have a number; others have no events."""
_REMEMBERED_STEPS = 256


class PipelineFeed:
    """Call `sent`, `stage` and `answered` only while `watched`: then an engine without viewers pays one test a step."""

    def __init__(
        self, pp: int, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """clock: that of the sequences' times; wall: seconds since 1970."""
        self.watched = False
        self._clock = clock
        self._wall = wall
        self._shift = [0.0] * pp
        """Seconds to add to each stage's clock, so that it agrees with the engine's."""
        self._clear()

    def _clear(self) -> None:
        self._events = PipelineEvents(time=0.0)
        self._taken = self._clock()
        self._live: dict[str, tuple[int, Sequence]] = {}
        self._count = 0
        self._sent: dict[int, float] = {}

    def watch(self, watched: bool) -> None:
        """Begin or end to collect."""
        if watched != self.watched:
            self.watched = watched
            self._clear()

    # --- events ------------------------------------------------------------------------------------------

    def sent(self, batch: MicroBatch, num_tokens: list[int]) -> None:
        """Record that a micro-batch was sent. num_tokens: of each row."""
        now = self._wall()
        events = self._events
        if len(events.sent) >= MAX_BATCHES:
            events.dropped += 1
            return
        work = batch.work
        rows = []
        # Prefill chunks are the last rows, and the ones that make micro-batches differ.
        for index in range(len(batch.rows) - 1, max(-1, len(batch.rows) - 1 - MAX_ROWS), -1):
            number = self._number(batch.rows[index], now)
            if number:
                rows.append((number, num_tokens[index]))
        events.sent.append(
            BatchSent(
                step=batch.step,
                time=now,
                prefill_tokens=work.prefill_tokens,
                decode_tokens=work.decode_rows,
                num_sequences=len(batch.rows),
                rows=rows,
            )
        )
        self._sent[batch.step] = now
        self._sent.pop(batch.step - _REMEMBERED_STEPS, None)

    def stage(self, report: StageReport) -> None:
        """Record that a stage computed a micro-batch.

        A stage may be on another machine, with a clock of its own. It cannot begin before the engine has sent the
        micro-batch, nor end after its report is here: its clock is shifted by what is needed for that.
        """
        sent = self._sent.get(report.step)
        if sent is None or not 0 <= report.stage < len(self._shift):
            return
        shift = self._shift[report.stage]
        latest = self._wall() - report.elapsed
        shift = max(min(shift, latest - report.started), sent - report.started)
        self._shift[report.stage] = shift
        self._events.stages.append(
            StageRun(step=report.step, stage=report.stage, start=report.started + shift, seconds=report.elapsed)
        )

    def answered(self, step: int, outputs: OutputsByClient) -> None:
        """Record that the result of a micro-batch is here, and what it changed."""
        now = self._wall()
        if step in self._sent:
            self._events.done.append(BatchDone(step=step, time=now))
        for group in outputs.values():
            for output in group:
                if output.finish_reason is None and not output.prefill_time:
                    continue
                known = self._live.get(output.request_id)
                if known is None:
                    continue
                if output.prefill_time:
                    self._add("first_token", *known, now)
                if output.finish_reason is not None:
                    self._add("end", *known, now, output.finish_reason)
                    del self._live[output.request_id]

    # --- messages ----------------------------------------------------------------------------------------

    @property
    def wait(self) -> float:
        """Seconds until `take` has something to send."""
        interval = INTERVAL if self._events.sent or self._events.stages or self._events.done else IDLE_INTERVAL
        return max(0.0, self._taken + interval - self._clock())

    def take(self, *, at_once: bool = False) -> PipelineEvents | None:
        """Return the events since the last message; None if it is too early for another one, unless `at_once`."""
        if self.wait > 0.0 and not at_once:
            return None
        now = self._wall()
        for request_id, (number, seq) in list(self._live.items()):
            if seq.status is SequenceStatus.FINISHED:  # Without an output of a step: its client has left.
                self._add("end", number, seq, now, "abort")
                del self._live[request_id]
        events, self._events = self._events, PipelineEvents(time=0.0)
        self._taken = self._clock()
        events.time = now
        events.clock_shifts = list(self._shift)
        return events

    def _number(self, seq: Sequence, now: float) -> int:
        """Return the sequence's number; 0 if there are too many."""
        known = self._live.get(seq.request_id)
        if known is not None:
            return known[0]
        if len(self._live) >= MAX_REQUESTS:
            return 0
        self._count += 1
        self._live[seq.request_id] = (self._count, seq)
        ago = self._clock()
        self._events.requests.append(
            RequestEvent(
                number=self._count,
                kind="scheduled",
                time=now - (ago - seq.first_scheduled),
                id=seq.request_id,
                arrival=now - (ago - seq.arrival_time),
                prompt_tokens=seq.num_prompt,
                cached_tokens=max(seq.num_cached, 0),
                output_tokens=len(seq.tokens) - seq.num_prompt,
                preemptions=seq.num_preemptions,
            )
        )
        return self._count

    def _add(
        self, kind: Literal["first_token", "end"], number: int, seq: Sequence, now: float, reason: str = ""
    ) -> None:
        self._events.requests.append(
            RequestEvent(
                number=number,
                kind=kind,
                time=now,
                output_tokens=len(seq.tokens) - seq.num_prompt,
                preemptions=seq.num_preemptions,
                reason=reason,
            )
        )
