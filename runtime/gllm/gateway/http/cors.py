"""CORS: tells a browser which web pages may talk to this server."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gllm.gateway.http.middleware import header

# Pages on localhost are allowed by default: they come from programs that the user of the browser runs, and these can
# reach the server without a browser anyway. A page of the Internet keeps its own origin whatever its name resolves to,
# so rebinding its name to 127.0.0.1 does not help it. The server uses no cookies: the key is the only credential.
_LOCAL = re.compile(r"(https?://)?(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_METHODS = b"GET, POST, DELETE, OPTIONS"
_EXPOSED = b"X-Request-Id, Request-Id, Retry-After"
_MAX_AGE = b"600"
"""Seconds for which a browser may remember a preflight."""


class Cors:
    """Answers preflights, before any key is asked for, and lets allowed pages read every other answer.

    allowed: origins such as `https://example.com`, in addition to those on localhost; `*` allows every origin.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = header(scope, b"origin")
        allowed = self._allows(origin)
        own: list[tuple[bytes, bytes]] = [(b"vary", b"Origin")]
        if allowed:
            own.append((b"access-control-allow-origin", origin))

        async def send_with_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        if origin and scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method"):
            if allowed:
                own += _permissions(scope)
            text = "" if allowed else "Pages of this origin are not allowed here; see --allowed-origins.\n"
            await PlainTextResponse(text)(scope, receive, send_with_own)
            return
        if allowed:
            own.append((b"access-control-expose-headers", _EXPOSED))
        await self._app(scope, receive, send_with_own)

    def _allows(self, origin: bytes) -> bool:
        text = origin.decode("latin-1")
        if not text or not (text.isascii() and text.isprintable()):
            return False
        return "*" in self._allowed or text.lower() in self._allowed or _LOCAL.fullmatch(text) is not None


def _permissions(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers that grant a preflight. `*` does not cover Authorization, so they name each header."""
    granted = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", header(scope, b"access-control-request-headers") or b"*"),
        (b"access-control-max-age", _MAX_AGE),
    ]
    if header(scope, b"access-control-request-private-network"):
        granted.append((b"access-control-allow-private-network", b"true"))
    return granted
