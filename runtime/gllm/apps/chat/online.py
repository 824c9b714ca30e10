"""Answers from an OpenAI server, over /v1/chat/completions with server-sent events."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import httpx

from gllm.apps.chat.session import ChatError, ContextFull, Message
from gllm.apps.server_url import server_base


class OnlineBackend:
    """One connection to a server. `fields`, such as temperature, go into every request."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        api_key: str = "",
        fields: dict[str, Any] | None = None,
        client: httpx.Client | None = None,
    ) -> None:
        try:
            base = server_base(url)
        except ValueError as error:
            raise ChatError(str(error)) from None
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # No time limit on reads: the first token of a busy server may take long.
        timeout = httpx.Timeout(10.0, read=None)
        self._client = client or httpx.Client(base_url=base, headers=headers, timeout=timeout)
        self._fields = fields or {}
        self.model = model

    def connect(self) -> str:
        """Return the name of the model: the given one, or the server's first. Raises ChatError."""
        if not self.model:
            answer = self._request(self._client.build_request("GET", "/v1/models"), stream=False)
            try:
                self.model = str(answer.json()["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise ChatError(f"{self._client.base_url} does not answer like an OpenAI server") from None
        return self.model

    def close(self) -> None:
        self._client.close()

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        body = {"model": self.model, "messages": messages, "stream": True, **self._fields}
        answer = self._request(self._client.build_request("POST", "/v1/chat/completions", json=body), stream=True)
        try:
            finished = False
            for event in _events(answer.iter_lines()):
                if "error" in event:
                    raise ChatError(_error_text(event))
                for choice in event.get("choices", ()):
                    finished = finished or choice.get("finish_reason") is not None
                    delta = choice.get("delta") or {}
                    # Show reasoning too: without it nothing is printed for a long time.
                    text = (delta.get("reasoning_content") or "") + (delta.get("content") or "")
                    if text:
                        yield text
            if not finished:
                raise ChatError("the server broke the answer off")
        except httpx.HTTPError as error:
            raise ChatError(f"the connection broke: {error or type(error).__name__}") from error
        finally:
            answer.close()

    def _request(self, request: httpx.Request, *, stream: bool) -> httpx.Response:
        """Send a request. Raises ChatError or ContextFull if the status is not 200."""
        try:
            answer = self._client.send(request, stream=stream)
            if answer.status_code == 200:
                return answer
            answer.read()
        except httpx.HTTPError as error:
            raise ChatError(f"no server at {self._client.base_url}: {error or type(error).__name__}") from error
        answer.close()
        try:
            body = answer.json()
        except ValueError:
            body = {}
        error_object = body.get("error") if isinstance(body, dict) else None
        if isinstance(error_object, dict) and error_object.get("code") == "context_length_exceeded":
            raise ContextFull
        if answer.status_code == 401:
            raise ChatError("the server needs another API key: use --api-key")
        raise ChatError(_error_text(body) or f"the server answered {answer.status_code}")


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        payload = line[5:].strip()
        if payload == "[DONE]":
            return
        event = json.loads(payload)
        if isinstance(event, dict):
            yield event


def _error_text(body: Any) -> str:
    """Return the message of OpenAI's error object, or of the forms that other servers use."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error", body)
    return str(error.get("message", "")) if isinstance(error, dict) else str(error)
