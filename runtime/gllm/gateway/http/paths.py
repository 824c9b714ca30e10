"""Paths: their canonical form, and the routes of other servers that this server does not have."""

from __future__ import annotations

_WITHOUT_V1 = ("/chat/completions", "/completions", "/models", "/responses", "/messages")
"""A client whose base URL lacks `/v1` asks for these."""

_NOT_OFFERED = {
    "embeddings": "it makes no embeddings",
    "pooling": "it makes no embeddings",
    "rerank": "it ranks no documents",
    "score": "it scores no pairs of texts; /v1/score tells how likely given tokens follow a text",
    "classify": "it classifies no texts",
    "moderations": "it moderates no texts",
    "audio": "it reads and writes no audio",
    "realtime": "it reads and writes no audio",
    "images": "it makes no images",
    "videos": "it makes no videos",
    "files": "it stores no files; `gllm generate` runs a batch offline",
    "uploads": "it stores no files; `gllm generate` runs a batch offline",
    "batches": "it takes no batches; `gllm generate` runs one offline",
    "fine_tuning": "it trains no models",
    "assistants": "it keeps no assistants; use /v1/responses or /v1/chat/completions",
    "threads": "it keeps no threads; use /v1/responses or /v1/chat/completions",
    "vector_stores": "it stores no files",
}


def canonical(path: str) -> str:
    """Return the path without trailing slashes, and with `/v1` if its client left that out."""
    path = path.rstrip("/") or "/"
    is_short = any(path == short or path.startswith(short + "/") for short in _WITHOUT_V1)
    return "/v1" + path if is_short else path


def why_not_offered(path: str) -> str:
    """Return what this server lacks for a path of another server's API. Empty for other paths."""
    parts = path.strip("/").split("/")
    if parts[0] in ("v1", "v2"):
        parts = parts[1:]
    return _NOT_OFFERED.get(parts[0], "") if parts else ""


def speaks_anthropic(path: str) -> bool:
    """Whether this canonical path belongs to Anthropic's API."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def speaks_sglang(path: str) -> bool:
    """Whether errors of this canonical path have SGLang's shape. Those of /generate are OpenAI's there, too."""
    return path == "/v1/score"
