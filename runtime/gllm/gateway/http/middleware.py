"""Middleware of all routes, as plain ASGI: request id, API key, late connections, HTTP counters.

The order is RequestTracking(Page(Cors(ApiKey(RefuseLate(CanonicalPaths(app)))))), with the page of `gllm.ui.page`.
Nothing here wraps `receive`, so a disconnect reaches the routes at once.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gllm.gateway.http.error_responses import REQUEST_ID, error_response
from gllm.gateway.http.paths import canonical, speaks_anthropic
from gllm.gateway.http.uvicorn_drain import LATE
from gllm.gateway.protocol.errors import bad_request, unauthorized, unavailable
from gllm.gateway.request.request_trace import CURRENT, RequestTrace
from gllm.logs import REQUEST_ID as LOGGED_ID
from gllm.tracing import Tracer

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready"})
"""The paths that need no API key."""
_UNTRACED = frozenset({"/ping", "unknown"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


def header(scope: Scope, name: bytes) -> bytes:
    """Return the first value of a header (lower-case name), or empty."""
    return next((value for key, value in scope["headers"] if key == name), b"")


class ApiKey:
    """Answers 401 unless the request has the key, in Authorization (OpenAI's clients) or x-api-key (Anthropic's).

    The scope's path decides whether a key is needed, never a URL rebuilt from headers.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key and scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            scheme, _, bearer = header(scope, b"authorization").partition(b" ")
            # Both comparisons always run, before the scheme is checked: the time must not depend on the scheme.
            is_bearer = hmac.compare_digest(bearer.strip(), self._key) and scheme.lower() == b"bearer"
            is_key = hmac.compare_digest(header(scope, b"x-api-key").strip(), self._key)
            if not (is_bearer or is_key):
                await error_response(unauthorized(), scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class RefuseLate:
    """Answers POST with 503 on a connection that was opened late in a drain. GET is answered: health and metrics.

    on_refuse is called for each refusal.
    """

    def __init__(self, app: ASGIApp, on_refuse: Callable[[], None]) -> None:
        self._app = app
        self._on_refuse = on_refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["state"].get(LATE):
            self._on_refuse()
            error = unavailable("The server is shutting down.", "draining", retry_after=5)
            await error_response(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class CanonicalPaths:
    """Passes canonical paths to the routes, and GET in place of HEAD: uvicorn sends no body for HEAD.

    An HTTP/1.1 request without exactly one Host header is refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = sum(name == b"host" for name, _ in scope["headers"])
            if hosts > 1 or (hosts == 0 and scope["http_version"] == "1.1"):
                error = bad_request(None, "An HTTP/1.1 request has exactly one Host header.", "invalid_http")
                await error_response(error, scope)(scope, receive, send)
                return
            # The scope is copied, because uvicorn reads HEAD from its own scope to leave out the body.
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": canonical(scope["path"]), "method": method}
        await self._app(scope, receive, send)


class RequestTracking:
    """Gives every response an X-Request-Id, counts it, traces it, and logs unexpected exceptions.

    route_of: the path's template for the counter; unknown paths share one label, so that scans cannot grow the series.
    tracer: None: no traces. POST requests to known paths are traced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        count: Callable[[str, str, int], None],
        route_of: Callable[[str], str],
        log_requests: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._count = count
        self._route_of = route_of
        self._log = log_requests
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        given = header(scope, b"x-request-id")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})[REQUEST_ID] = request_id.decode()
        LOGGED_ID.set(request_id.decode())
        trace = self._begin(self._tracer, scope, request_id.decode()) if self._tracer is not None else None
        CURRENT.set(trace)
        ids = [(b"x-request-id", request_id)]
        if speaks_anthropic(canonical(scope["path"])):
            ids.append((b"request-id", request_id))
        status = 0
        complete = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *ids]
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("unexpected error", extra={"path": scope["path"][:200]})
            # FastAPI has sent the error. After an incomplete response the connection must close: uvicorn does that on
            # an exception.
            if not complete:
                raise
        finally:
            route = self._route_of(scope["path"])
            # 499: the client disconnected before the response.
            self._count(route, _method(scope["method"]), status or 499)
            if trace is not None:
                trace.end(status or 499)
            if self._log:
                logger.info(
                    "request",
                    extra={
                        "route": route,
                        "status": status or 499,
                        "seconds": round(time.monotonic() - started, 4),
                    },
                )

    def _begin(self, tracer: Tracer, scope: Scope, request_id: str) -> RequestTrace | None:
        route = self._route_of(scope["path"])
        if scope["method"] != "POST" or route in _UNTRACED:
            return None
        return RequestTrace.begin(
            tracer,
            method=scope["method"],
            route=route,
            request_id=request_id,
            traceparent=header(scope, b"traceparent").decode("latin-1"),
            tracestate=header(scope, b"tracestate").decode("latin-1"),
        )


def _method(method: str) -> str:
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH") else "other"
