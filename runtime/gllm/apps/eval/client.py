"""One question to an OpenAI server, whole answer back; busy and restarting servers are asked again."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx

from gllm.apps.eval.task import EndpointName
from gllm.apps.server_url import server_base

ATTEMPTS = 6
"""How often a request is sent before it counts as failed: with the waits between them about half a minute."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_TOO_LONG = re.compile(r"context.?length|maximum context|too long", re.IGNORECASE)
PATHS: dict[EndpointName, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class RequestFailed(Exception):
    """str(error) says why a request has no answer."""


class PromptTooLong(RequestFailed):
    """The prompt and its answer do not fit into the model's context."""


class EvalClient:
    """Connections to one server. An async context manager."""

    def __init__(self, url: str, *, api_key: str = "", timeout: float = 3600.0, connections: int = 100) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(
            base_url=server_base(url),
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=connections),
        )

    async def __aenter__(self) -> EvalClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON of the answer. Raises RequestFailed."""
        for attempt in range(ATTEMPTS):
            failure = ""
            answer = None
            try:
                answer = await self._client.post(path, json=body)
            except httpx.HTTPError as error:
                failure = f"no answer from {self._client.base_url}: {error or type(error).__name__}"
            if answer is not None:
                if answer.status_code == 200:
                    return _json(answer)
                failure = f"HTTP {answer.status_code}: {answer.text[:300]}"
                if answer.status_code in (400, 413, 422) and _TOO_LONG.search(answer.text):
                    raise PromptTooLong(failure)
                if answer.status_code not in _AGAIN:
                    raise RequestFailed(failure)
            if attempt < ATTEMPTS - 1:
                await asyncio.sleep(_pause(answer, attempt))
        raise RequestFailed(failure)


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RequestFailed(f"the answer is not a JSON object: {answer.text[:300]}")
    return body


def _pause(answer: httpx.Response | None, attempt: int) -> float:
    """Return the seconds before the next attempt: what the server asks for, up to a minute, or 1, 2, 4, ..."""
    asked = answer.headers.get("retry-after", "") if answer is not None else ""
    return min(float(asked), 60.0) if re.fullmatch(r"\d+(\.\d+)?", asked) else min(2.0**attempt, 16.0)
