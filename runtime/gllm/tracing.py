"""OpenTelemetry traces: spans that the gateway and the engine send to a collector, with OTLP over HTTP.

Without --otlp-endpoint there is no `Tracer`, and nothing of OpenTelemetry is imported. All else is set by the standard
variables, which the SDK reads: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER (by default a request
is sampled as its client's span is, and without one always), OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_*.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from gllm import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

_TRACES_PATH = "/v1/traces"
_CLOSE_SECONDS = 3.0
"""Time for the last spans at the end of a process; a collector that does not answer costs no more."""
_LOG_SECONDS = 60.0
"""Time between two log lines of OpenTelemetry's packages."""


def missing_packages() -> str:
    """Return what is not installed and how to install it; empty if all is there."""
    try:
        found = find_spec("opentelemetry.sdk.trace") and find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is not None:
        return ""
    return (
        "tracing needs opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http, which are not installed: "
        "pip install 'gllm[otel]'"
    )


def open_tracer(endpoint: str, role: str) -> Tracer | None:
    """Return the tracer of a process; None without an endpoint.

    Args:
        endpoint: URL of a collector, with or without the path /v1/traces.
        role: gateway or engine, an attribute of all its spans.

    Raises ValueError if packages are missing.
    """
    if not endpoint:
        return None
    if missing := missing_packages():
        raise ValueError(missing)
    return Tracer(endpoint, role)


class Tracer:
    """Starts spans. A background thread sends them in batches; a collector that is gone is a line in the log."""

    def __init__(self, endpoint: str, role: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        own: dict[str, str | int] = {
            "service.name": "gllm",
            "service.version": __version__,
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
            "gllm.role": role,
        }
        url = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(url if url.endswith(_TRACES_PATH) else url + _TRACES_PATH)
        resource = Resource({**own}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gllm", __version__)
        self._propagator = TraceContextTextMapPropagator()
        for handler in logging.getLogger().handlers:
            handler.addFilter(_once_a_minute())

    def start(
        self,
        name: str,
        parent: Context | Span | None,
        at: float,
        attributes: Attributes,
        *,
        kind: Literal["internal", "server"] = "internal",
    ) -> Span:
        """Start a span; it may be one that records nothing, by the sampler.

        Args:
            parent: a span of this process, or the context of another one; None or an empty context: a new trace.
            at: Unix time in seconds.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        context = Context()  # None would be the current one of the thread.
        if isinstance(parent, Context):
            context = parent
        elif parent is not None:
            context = set_span_in_context(parent, context)
        return self._tracer.start_span(
            name,
            context,
            SpanKind.SERVER if kind == "server" else SpanKind.INTERNAL,
            attributes,
            start_time=nanoseconds(at),
        )

    def context(self, traceparent: str, tracestate: str = "") -> Context:
        """Return the context of W3C headers; empty if they are missing or wrong."""
        from opentelemetry.context import Context

        return self._propagator.extract({"traceparent": traceparent, "tracestate": tracestate}, Context())

    def traceparent(self, span: Span) -> str:
        """Return the W3C header for the children of a span."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span, Context()))
        return carrier.get("traceparent", "")

    def close(self) -> None:
        """Send the last spans, for at most a few seconds."""
        thread = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)


def _once_a_minute() -> Callable[[logging.LogRecord], bool]:
    """Return a filter of log records: a collector that is gone must not fill the log with each batch of spans."""
    passed = -_LOG_SECONDS

    def is_shown(record: logging.LogRecord) -> bool:
        nonlocal passed
        if record.name.startswith("opentelemetry"):
            if record.created - passed < _LOG_SECONDS:
                return False
            passed = record.created
        return True

    return is_shown


def nanoseconds(at: float) -> int:
    """Return a Unix time as OpenTelemetry has it."""
    return int(at * 1e9)


def unix_time(monotonic: float) -> float:
    """Return the Unix time of a time.monotonic()."""
    return time.time() - time.monotonic() + monotonic
