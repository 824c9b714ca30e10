"""Paths: their canonical form, and the routes of other servers that this server does not have."""

from __future__ import annotations

_WITHOUT_V1 = ("/chat/completions", "/completions", "/models", "/responses", "/messages")
"""A client whose base URL lacks `/v1` asks for these."""

_NOT_OFFERED = {
    "embeddings": "it does not compute embeddings",
    "pooling": "it does not compute embeddings",
    "rerank": "it does not rank documents",
    "score": "it does not score pairs of texts; /v1/score gives the probabilities of tokens after a text",
    "classify": "it does not classify texts",
    "moderations": "it does not moderate texts",
    "audio": "it does not read or write audio",
    "realtime": "it does not read or write audio",
    "images": "it does not generate images",
    "videos": "it does not generate videos",
    "files": "it does not store files; `gllm generate` runs a batch offline",
    "uploads": "it does not store files; `gllm generate` runs a batch offline",
    "batches": "it does not take batches; `gllm generate` runs one offline",
    "fine_tuning": "it does not train models",
    "assistants": "it does not keep assistants; use /v1/responses or /v1/chat/completions",
    "threads": "it does not keep threads; use /v1/responses or /v1/chat/completions",
    "vector_stores": "it does not store files",
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
