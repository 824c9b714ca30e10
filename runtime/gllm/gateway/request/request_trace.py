"""The spans of one HTTP request: the request itself, tokenizing, and for each choice queue, prefill and decode.

Attributes have the names of OpenTelemetry's conventions for generative AI. What these lack has vLLM's names
(`gen_ai.latency.*`), and so have token counts a second time, so that dashboards for vLLM work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.generation_schema import GenerationRequest
from gllm.gateway.protocol.usage import TokenCounts
from gllm.gateway.request.choice import Choice
from gllm.tracing import Attributes, Tracer, nanoseconds, unix_time

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class RequestTrace:
    """The trace of a request that is sampled."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self.traceparent = tracer.traceparent(span)
        """For the engine's spans."""
        self.exemplar = {"trace_id": f"{span.get_span_context().trace_id:032x}"}
        """The label of exemplars in /metrics."""

    @classmethod
    def begin(
        cls, tracer: Tracer, *, method: str, route: str, request_id: str, traceparent: str, tracestate: str
    ) -> RequestTrace | None:
        """Begin the trace of a request, or continue its client's. None if the sampler leaves it out."""
        attributes: Attributes = {
            "http.request.method": method,
            "http.route": route,
            "http.request.header.x-request-id": [request_id],
        }
        parent = tracer.context(traceparent, tracestate)
        span = tracer.start(f"{method} {route}", parent, time.time(), attributes, kind="server")
        return cls(tracer, span) if span.is_recording() else None

    def tokenized(self, began: float, prompt_tokens: int) -> None:
        """Record that the prompts are tokens, and the grammar is checked if there is one. began: time.monotonic()."""
        self._child("tokenize", began, time.monotonic(), {"gen_ai.usage.input_tokens": prompt_tokens})

    def answered(
        self,
        request: GenerationRequest,
        choices: Sequence[Choice],
        counts: TokenCounts,
        *,
        response_id: str,
        model: str,
        arrived: float,
        submitted: float,
        failed: bool,
    ) -> None:
        """Record what became of the choices. Times are time.monotonic(): of the request and of its submission.

        failed: whether the engine failed the request, maybe after the headers of the answer.
        """
        now = time.monotonic()
        for choice in choices:
            self._phases(choice, submitted, now)
        sampling = choices[0].sampling
        latencies = {"e2e": now - arrived}
        if begun := [choice for choice in choices if choice.first_token_at]:
            latencies |= {
                "time_to_first_token": min(choice.first_token_at for choice in begun) - arrived,
                "time_in_queue": max(choice.queue_time for choice in begun),
                "time_in_model_prefill": max(choice.prefill_time for choice in begun),
                "time_in_model_decode": max(choice.decode_time for choice in begun),
                "time_in_model_inference": max(choice.prefill_time + choice.decode_time for choice in begun),
            }
        self._span.set_attributes(
            {
                "gen_ai.operation.name": "chat" if isinstance(request, ChatRequest) else "text_completion",
                "gen_ai.request.model": request.model or model,
                "gen_ai.response.model": model,
                "gen_ai.request.id": response_id,
                "gen_ai.request.n": request.choices_per_prompt,
                "gen_ai.request.max_tokens": sampling.max_tokens or 0,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.top_p": sampling.top_p,
                "gen_ai.usage.num_sequences": len(choices),
                "gen_ai.usage.input_tokens": counts.prompt,
                "gen_ai.usage.prompt_tokens": counts.prompt,
                "gen_ai.usage.cache_read.input_tokens": counts.cached,
                "gen_ai.usage.output_tokens": counts.completion,
                "gen_ai.usage.completion_tokens": counts.completion,
                "gen_ai.response.finish_reasons": [choice.finish_reason or "abort" for choice in choices],
            }
            | {f"gen_ai.latency.{name}": seconds for name, seconds in latencies.items()}
        )
        if failed:
            self._fail("engine")

    def end(self, status: int) -> None:
        """End the request's span."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._fail(str(status))
        self._span.end(nanoseconds(time.time()))

    def _fail(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)

    def _phases(self, choice: Choice, submitted: float, now: float) -> None:
        """Record queue, prefill and decode of a choice: with the engine's durations, on this process' clock."""
        attributes: Attributes = {"gllm.choice": choice.index, "gen_ai.request.id": choice.request_id}
        if not choice.first_token_at:
            self._child("queue", submitted, now, attributes)
            return
        scheduled = submitted + choice.queue_time
        first = scheduled + choice.prefill_time
        self._child("queue", submitted, scheduled, attributes)
        self._child("prefill", scheduled, first, attributes)
        self._child("decode", first, max(choice.last_token_at, first), attributes)

    def _child(self, name: str, began: float, ended: float, attributes: Attributes) -> None:
        span = self._tracer.start(name, self._span, unix_time(began), attributes)
        span.end(nanoseconds(unix_time(ended)))


CURRENT: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)
"""The trace of the request that the current task serves."""
