"""The engine's spans of traced requests: one for the request in the engine, and for each stage its prefill and decode.

They are made of times that the engine has anyway: the reports of the stages. No message is sent for them, and none is
made for a token or a step; the chunks of a prefill are events of its span.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from gllm.engine.sequence import Sequence, SequenceStatus
from gllm.tracing import Attributes, Tracer, nanoseconds, unix_time
from gllm.wire.messages import SchedulerOutput, StageReport

if TYPE_CHECKING:
    from opentelemetry.trace import Span

LATE_SECONDS = 2.0
"""Time after the end of a request in which reports of its last steps may still arrive."""
_FINISHED = SequenceStatus.FINISHED
"""Looking up a member of an enum is slow, and this one is compared for every traced request in every step."""


class TracedRequest:
    """A traced request, from its arrival until its spans are sent."""

    __slots__ = ("ended", "prefill", "seq", "span", "steps")

    def __init__(self, seq: Sequence, span: Span) -> None:
        self.seq = seq
        self.span = span
        self.steps: list[int] = []
        """The steps in which it has a row."""
        self.prefill: dict[int, int] = {}
        """Those of them that compute a chunk of its prompt, and the chunk's tokens."""
        self.ended = 0.0
        """time.monotonic() when its end was seen; 0: it runs."""


class EngineSpans:
    """Follows the traced requests of a scheduler. With none of them each call returns at once."""

    def __init__(self, tracer: Tracer, pp: int) -> None:
        self._tracer = tracer
        self._pp = pp
        self._live: list[TracedRequest] = []
        self._reports: dict[int, list[StageReport | None]] = {}
        """The reports of each stage, by step, for the steps of live requests; ascending."""

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
        step = output.step
        for request in self._live:
            seq = request.seq
            if seq.last_step != step:
                continue
            request.steps.append(step)
            if seq.num_scheduled <= seq.prefill_end and seq.slot in output.slots:
                request.prefill[step] = output.num_tokens[output.slots.index(seq.slot)]

    def observe(self, report: StageReport) -> None:
        """Take a stage's report of a step."""
        if self._live and 0 <= report.stage < self._pp:
            self._reports.setdefault(report.step, [None] * self._pp)[report.stage] = report

    def collect(self, now: float) -> None:
        """Send the spans of requests that have ended. Call it after each result and now and then.

        now: time.monotonic().
        """
        ended = [request for request in self._live if request.ended or request.seq.status is _FINISHED]
        sent = []
        for request in ended:
            request.ended = request.ended or now
            if self._is_reported(request) or now > request.ended + LATE_SECONDS:
                self._send(request)
                sent.append(request)
        if sent:
            self._live = [request for request in self._live if request not in sent]
            self._forget_reports()

    def close(self) -> None:
        """Send the spans of all requests, also of those that run: the engine ends."""
        now = time.monotonic()
        for request in self._live:
            request.ended = request.ended or now
            self._send(request)
        self._live = []

    def _is_reported(self, request: TracedRequest) -> bool:
        """Whether all stages have reported its last step; they report in order."""
        return not request.steps or None not in self._reports.get(request.steps[-1], (None,))

    def _forget_reports(self) -> None:
        """Drop the reports of steps before the first one of all live requests."""
        first = min((request.steps[0] for request in self._live if request.steps), default=sys.maxsize)
        while self._reports and (step := next(iter(self._reports))) < first:
            del self._reports[step]

    def _send(self, request: TracedRequest) -> None:
        seq, span = request.seq, request.span
        decodes = [step for step in request.steps if step not in request.prefill]
        for stage in range(self._pp):
            self._send_stage(request, "prefill", stage, list(request.prefill))
            self._send_stage(request, "decode", stage, decodes)
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

    def _send_stage(self, request: TracedRequest, phase: str, stage: int, steps: list[int]) -> None:
        """Send the span of a stage in one phase: from its first step to the end of its last one."""
        found = (self._reports[step][stage] for step in steps if step in self._reports)
        reports = [report for report in found if report is not None]
        if not reports:
            return
        attributes: dict[str, int | float] = {
            "gllm.stage": stage,
            "gllm.steps": len(reports),
            "gllm.busy_seconds": sum(report.elapsed for report in reports),
        }
        chunks = [(report, request.prefill.get(report.step, 0)) for report in reports] if phase == "prefill" else []
        if chunks:
            attributes["gllm.tokens"] = sum(tokens for _, tokens in chunks)
        span = self._tracer.start(f"{phase} stage {stage}", request.span, reports[0].started, attributes)
        for report, tokens in chunks:
            event = {"gllm.step": report.step, "gllm.tokens": tokens, "gllm.seconds": report.elapsed}
            span.add_event("chunk", event, timestamp=nanoseconds(report.started))
        span.end(nanoseconds(max(report.started + report.elapsed for report in reports)))
