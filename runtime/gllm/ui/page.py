"""Serves the web page at `/` and its files under `/ui/`. They need no API key, because they contain nothing of the
server: the page asks for the key and sends it with each call of the API."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No code of the page can turn a string into HTML or into a script, so no text of a model can either.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Browsers ask each time and get 304, so a newer server never runs with scripts of an older one.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def _read_files() -> dict[str, _File]:
    """Return the page's files by their paths; the page itself is `/`."""
    files = {}
    for entry in resources.files("gllm.ui").joinpath("static").iterdir():
        body = entry.read_bytes()
        path = "/" if entry.name == "index.html" else f"/ui/{entry.name}"
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        files[path] = _File(body, _TYPES[entry.name.rpartition(".")[2]], etag)
    return files


class Page:
    """Answers GET and HEAD of the page's paths; every other request goes on to `app`.

    `/` is the page only for a browser, which accepts text/html: other clients get the app's answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = _read_files()

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or scope["path"] not in self._files:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] == "/" and b"text/html" not in headers.get(b"accept", b""):
            await self._app(scope, receive, send)
            return
        file = self._files[scope["path"]]
        own = {**_HEADERS, "ETag": file.etag, "Vary": "Accept"}
        if headers.get(b"if-none-match") == file.etag.encode():
            await Response(None, 304, headers=own)(scope, receive, send)
        else:
            await Response(file.body, headers=own, media_type=file.media_type)(scope, receive, send)
