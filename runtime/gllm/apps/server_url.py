"""The URL of a server as a user writes it."""

from __future__ import annotations

from urllib.parse import urlsplit


def server_base(url: str, name: str = "--url") -> str:
    """Return `http://HOST:PORT/PREFIX`, without /v1 or a slash at its end. A URL without a scheme counts as http.

    Raises ValueError, in one line that calls it `name`.
    """
    base = url.strip() if "://" in url else f"http://{url.strip()}"
    try:
        parts = urlsplit(base)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # The port.
        valid = False
    if not valid:
        raise ValueError(f"{name} must look like http://127.0.0.1:8000, not {url!r}")
    return base.rstrip("/").removesuffix("/v1").rstrip("/")
