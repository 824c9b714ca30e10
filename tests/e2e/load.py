"""A load client that reads and checks every stream: `python tests/e2e/load.py http://smol.default.svc/v1 --seconds 60`.

Each stream asks for a fixed number of tokens, and must return exactly these, finish_reason, usage and [DONE]. It is not
retried, so every request that a server drops or cuts short is counted. Greedy tokens depend on the prompt alone, so the
text for a prompt must be the same each time, whichever group serves it.

Clients keep their connections, as nearly all do: every second one is httpx, the others are the official client. With
`fresh` each request has a new connection, so that a Service balances each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, get_args

import httpx
import openai

ClientKind = Literal["httpx", "openai", "fresh"]
KEPT: tuple[ClientKind, ...] = ("httpx", "openai")
EACH: tuple[ClientKind, ...] = get_args(ClientKind)

PROMPTS = (
    "Tell me about the sea.",
    "Count from one to fifty.",
    "Why is the sky blue?",
    "Write a short poem about bread.",
    "What is a pipeline?",
)
_PATIENCE = 180.0
"""Seconds without a chunk after which a request counts as lost."""


@dataclass(frozen=True)
class Failure:
    sent_at: float
    """When the request was sent, by time.monotonic()."""
    began: bool
    """Whether it had received tokens."""
    cause: str


@dataclass
class Report:
    sent: int = 0
    completed: int = 0
    failures: list[Failure] = field(default_factory=list)
    differing: int = 0
    """Streams whose text differs from an earlier answer to the same prompt."""
    longest_pause: float = 0.0
    """The longest wait for a token, including the first one, in seconds."""
    longest_request: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        return len(self.failures)

    def line(self) -> str:
        broken = sum(failure.began for failure in self.failures)
        text = (
            f"sent {self.sent}, completed {self.completed}, lost {self.lost} ({broken} had begun), differing "
            f"{self.differing}, longest pause {self.longest_pause:.1f} s, longest request {self.longest_request:.1f} s"
        )
        return text + (f"; first cause: {self.failures[0].cause}" if self.failures else "")


class Load:
    """`with Load(url) as load: ...` keeps streams running in the block. `load.report` is final afterwards."""

    def __init__(
        self,
        url: str,
        streams: int = 3,
        max_tokens: int = 40,
        model: str = "smollm2",
        clients: Sequence[ClientKind] = KEPT,
    ) -> None:
        """clients: their kinds, in turn for the streams."""
        self.url = url.rstrip("/")
        self.streams = streams
        self.max_tokens = max_tokens
        self.model = model
        self.clients = clients
        self.report = Report()
        self.texts: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no new requests, and read the running ones to their end."""
        self._stop.set()
        self._thread.join(_PATIENCE + 30)
        self.report.seconds = time.monotonic() - self._began

    def wait_for(self, count: int, seconds: float = 120.0) -> None:
        """Wait until so many more streams have completed, so that a failure meets a real load."""
        wanted, deadline = self.report.completed + count, time.monotonic() + seconds
        while self.report.completed < wanted:
            assert time.monotonic() < deadline, f"only {self.report.line()}"
            time.sleep(0.05)

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            streams = []
            for number in range(self.streams):
                kind = self.clients[number % len(self.clients)]
                streams.append(self._stream_on(await stack.enter_async_context(_Client(kind, self.url)), number))
            await asyncio.gather(*streams)

    async def _stream_on(self, client: _Client, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            await self._request(client, PROMPTS[turn % len(PROMPTS)])
            turn += 1

    async def _request(self, client: _Client, prompt: str) -> None:
        report, began = self.report, time.monotonic()
        report.sent += 1
        stream = _Stream(self.max_tokens, began)
        try:
            async for line in client.lines(self._body(prompt)):
                stream.take(line)
        except (httpx.HTTPError, openai.OpenAIError) as error:
            stream.problem = f"{type(error).__name__}: {str(error)[:200]}"
        finally:
            report.longest_pause = max(report.longest_pause, stream.longest, time.monotonic() - stream.last)
        cause = stream.verdict()
        if cause:
            when = f"after {stream.chunks} chunks, {time.monotonic() - self._began:.1f} s into the load"
            report.failures.append(Failure(began, stream.began, f"{client.kind}: {cause} {when}"))
            await asyncio.sleep(0.2)
            return
        report.completed += 1
        report.tokens += self.max_tokens
        report.longest_request = max(report.longest_request, time.monotonic() - began)
        report.differing += self.texts.setdefault(prompt, stream.text) != stream.text

    def _body(self, prompt: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
        }


class _Client(AbstractAsyncContextManager["_Client"]):
    """One client with its own connections, and no retries."""

    def __init__(self, kind: ClientKind, url: str) -> None:
        self.kind = kind
        self._url = url
        limits = httpx.Limits(max_keepalive_connections=0 if kind == "fresh" else None)
        timeout = httpx.Timeout(_PATIENCE, connect=10)
        self._http = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)
        self._official = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=self._http)

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def lines(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """Yield the lines of a streamed answer. Raises httpx.HTTPError or openai.OpenAIError."""
        if self.kind == "openai":
            more = {"ignore_eos": body["ignore_eos"]}
            given = {name: value for name, value in body.items() if name not in more}
            sent = self._official.chat.completions.with_streaming_response.create(**given, extra_body=more)
            async with sent as answer:
                async for line in answer.iter_lines():
                    yield line
            return
        async with self._http.stream("POST", f"{self._url}/chat/completions", json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                raise httpx.HTTPError(f"HTTP {response.status_code}: {text}")
            async for line in response.aiter_lines():
                yield line


class _Stream:
    """The contents of one streamed answer."""

    def __init__(self, wanted: int, began: float) -> None:
        self.wanted = wanted
        self.last = began
        self.longest = 0.0
        self.began = False
        self.chunks = 0
        self.text = ""
        self.finish = ""
        self.usage = -1
        self.done = False
        self.problem = ""

    def take(self, line: str) -> None:
        if not line.startswith("data: "):
            return
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        if line == "data: [DONE]":
            self.done = True
            return
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            self.problem = f"error in the stream: {chunk['error'].get('message')}"
            return
        if chunk.get("usage"):
            self.usage = chunk["usage"]["completion_tokens"]
        for choice in chunk.get("choices") or []:
            text = choice["delta"].get("content") or ""
            self.began = self.began or bool(text)
            self.chunks += 1
            self.text += text
            self.finish = choice.get("finish_reason") or self.finish

    def verdict(self) -> str:
        if self.problem:
            return self.problem
        if (self.finish, self.usage, self.done) != ("length", self.wanted, True):
            return f"truncated: finish_reason {self.finish!r}, {self.usage} tokens, [DONE] {self.done}"
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="such as http://smol.default.svc/v1")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--fresh", action="store_true", help="a new connection for each request")
    given = parser.parse_args()
    clients: Sequence[ClientKind] = ("fresh",) if given.fresh else KEPT
    with Load(given.url, given.streams, given.max_tokens, given.model, clients) as load:
        time.sleep(given.seconds)
    print(load.report.line())
    raise SystemExit(1 if load.report.lost else 0)


if __name__ == "__main__":
    main()
