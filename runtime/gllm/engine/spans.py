"""The engine's spans of traced requests: one for the request in the engine, and for each stage its prefill and decode.

They are made of times that the engine has anyway: the reports of the stages. No message is sent for them, and none is
made for a token or a step; the chunks of a prefill are events of its span.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from gllm.engine.sequence import Sequence, SequenceStatus
from gllm.tracing import Attributes, Tracer, nanoseconds, unix_time
from gllm.wire.messages import SchedulerOutput, StageReport

if TYPE_CHECKING:
    from opentelemetry.trace import Span

LATE_SECONDS = 2.0
"""Time after the end of a request in which reports of its last steps may still arrive."""
_REMEMBERED_STEPS = 256

Phase = Literal["prefill", "decode"]


class Chunk(msgspec.Struct):
    """A step of a stage that computed a chunk of the prompt."""

    started: float
    step: int
    tokens: int
    seconds: float


class StageTimes(msgspec.Struct):
    """What a stage did for one request in one phase. Times are Unix times of the stage's node."""

    started: float = 0.0
    ended: float = 0.0
    steps: int = 0
    busy: float = 0.0
    """Seconds of computation of these steps, which other requests share."""
    chunks: list[Chunk] = []

    def add(self, report: StageReport) -> None:
        if not self.steps:
            self.started = report.started
        self.ended = max(self.ended, report.started + report.elapsed)
        self.steps += 1
        self.busy += report.elapsed


class TracedRequest:
    """A traced request, from its arrival until its spans are sent."""

    def __init__(self, seq: Sequence, span: Span) -> None:
        self.seq = seq
        self.span = span
        self.due = 0
        """Reports of its steps that have not arrived."""
        self.ended = 0.0
        """time.monotonic() when its end was seen; 0: it runs."""
        self.stages: dict[tuple[Phase, int], StageTimes] = {}

    def observe(self, report: StageReport, prefill_tokens: int) -> None:
        self.due -= 1
        phase: Phase = "prefill" if prefill_tokens else "decode"
        times = self.stages.setdefault((phase, report.stage), StageTimes(chunks=[]))
        times.add(report)
        if prefill_tokens:
            times.chunks.append(Chunk(report.started, report.step, prefill_tokens, report.elapsed))


class EngineSpans:
    """Follows the traced requests of a scheduler. With none of them each call returns at once."""

    def __init__(self, tracer: Tracer, pp: int) -> None:
        self._tracer = tracer
        self._pp = pp
        self._live: list[TracedRequest] = []
        self._steps: dict[int, list[tuple[TracedRequest, int]]] = {}
        """Step to its traced requests and their prefill tokens, 0 for a decode."""

    def added(self, seq: Sequence) -> None:
        """Begin to follow a request, if it is traced."""
        if not seq.origin.traceparent:
            return
        attributes: Attributes = {
            "gen_ai.request.id": seq.request_id,
            "http.request.header.x-request-id": [seq.origin.http_id],
            "gen_ai.usage.input_tokens": seq.num_prompt,
        }
        parent = self._tracer.context(seq.origin.traceparent)
        span = self._tracer.start("engine", parent, unix_time(seq.arrival_time), attributes)
        if span.is_recording():
            self._live.append(TracedRequest(seq, span))

    def scheduled(self, output: SchedulerOutput) -> None:
        """Note which requests have a row in a step that was just scheduled."""
        if not self._live:
            return
        rows = []
        for request in self._live:
            seq = request.seq
            if seq.last_step != output.step or request.ended:
                continue
            is_prefill = seq.num_scheduled <= seq.prefill_end and seq.slot in output.slots
            tokens = output.num_tokens[output.slots.index(seq.slot)] if is_prefill else 0
            request.due += self._pp
            rows.append((request, tokens))
        if rows:
            self._steps[output.step] = rows
        self._steps.pop(output.step - _REMEMBERED_STEPS, None)

    def observe(self, report: StageReport) -> None:
        """Take a stage's report of a step."""
        rows = self._steps.get(report.step)
        if rows is not None:
            for request, tokens in rows:
                request.observe(report, tokens)

    def collect(self, now: float) -> None:
        """Send the spans of requests that have ended. Call it after each result and now and then.

        now: time.monotonic().
        """
        left = []
        for request in self._live:
            if not request.ended and request.seq.status is SequenceStatus.FINISHED:
                request.ended = now
            if request.ended and (request.due <= 0 or now > request.ended + LATE_SECONDS):
                self._send(request)
            else:
                left.append(request)
        self._live = left
        if not left:
            self._steps.clear()

    def close(self) -> None:
        """Send the spans of all requests, also of those that run: the engine ends."""
        now = time.monotonic()
        for request in self._live:
            request.ended = request.ended or now
            self._send(request)
        self._live = []

    def _send(self, request: TracedRequest) -> None:
        seq, span = request.seq, request.span
        for (phase, stage), times in request.stages.items():
            attributes = {"gllm.stage": stage, "gllm.steps": times.steps, "gllm.busy_seconds": times.busy}
            if phase == "prefill":
                attributes["gllm.tokens"] = sum(chunk.tokens for chunk in times.chunks)
            child = self._tracer.start(f"{phase} stage {stage}", span, times.started, attributes)
            for chunk in times.chunks:
                event = {"gllm.step": chunk.step, "gllm.tokens": chunk.tokens, "gllm.seconds": chunk.seconds}
                child.add_event("chunk", event, timestamp=nanoseconds(chunk.started))
            child.end(nanoseconds(times.ended))
        span.set_attributes(
            {
                "gen_ai.usage.output_tokens": len(seq.tokens) - seq.num_prompt,
                "gen_ai.usage.cache_read.input_tokens": max(seq.num_cached, 0),
                "gllm.preemptions": seq.num_preemptions,
            }
        )
        if seq.first_scheduled:
            span.set_attribute("gen_ai.latency.time_in_queue", seq.first_scheduled - seq.arrival_time)
        span.end(nanoseconds(unix_time(request.ended)))
