"""A client for /v1/completions streams that costs little CPU time.

On a small machine the client takes CPU time from the server that it measures. So while a stream runs, this client only
records bytes and their times. It parses HTTP and JSON after the stream has ended. Each request has its own connection.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import ssl
import time
from urllib.parse import urlsplit

import msgspec

from gllm.apps.bench.sse import SseResponse, timed_events
from gllm.apps.bench.workloads import BenchRequest
from gllm.apps.server_url import server_base

_END_MARKS = (b"0\r\n\r\n", b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The server, the model and the key."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    """Path before /v1, without a slash at its end."""
    api_key: str = ""
    model: str = ""

    @classmethod
    def from_url(cls, url: str, *, api_key: str = "", model: str = "") -> Endpoint:
        """Parse http(s)://host:port, with or without /v1. Raises ValueError."""
        parts = urlsplit(server_base(url))
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname or "",
            port=parts.port or (443 if tls else 80),
            tls=tls,
            prefix=parts.path,
            api_key=api_key,
            model=model,
        )


class RequestRecord(msgspec.Struct, kw_only=True):
    """The record of one request. Times are seconds; `start` counts from the start of the run."""

    index: int
    prompt_tokens: int
    output_tokens: int = 0
    start: float = 0.0
    pieces: list[tuple[float, float]] = []
    """(seconds after `start`, tokens) of each piece of output.

    HTTP does not say how many tokens an event has: the first counts as one token, and the others share the rest of
    `output_tokens`. The offline engine has exact numbers. The tokens of a request's pieces add up to `output_tokens`.
    """
    latency: float = 0.0
    """E2EL: from sending to the end of the output, or to the failure."""
    finish_reason: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def first_token(self) -> float:
        """Seconds from the start of the run to the first piece of output; infinite without output."""
        return self.start + self.pieces[0][0] if self.pieces else math.inf

    @property
    def end(self) -> float:
        """Seconds from the start of the run to the end of the request."""
        return self.start + self.latency

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first piece of output."""
        return self.pieces[0][0]

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first; None with only one token."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Inter-token latencies as (seconds, number of tokens): a piece's gap is split evenly over its tokens."""
        return [((now - before) / tokens, tokens) for (before, _), (now, tokens) in itertools.pairwise(self.pieces)]


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_event_decoder = msgspec.json.Decoder(_Event)


class _Recorder(asyncio.Protocol):
    """Records (time, bytes) until the answer ends."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))
        if data.endswith(_END_MARKS):
            self._finish()

    def eof_received(self) -> None:
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def request_bytes(endpoint: Endpoint, request: BenchRequest, *, ignore_eos: bool) -> bytes:
    """Return the HTTP request: a greedy streamed completion, of exactly `output_len` tokens if EOS is ignored."""
    body = msgspec.json.encode(
        {
            "model": endpoint.model,
            "prompt": request.token_ids,
            "max_tokens": request.output_len,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if ignore_eos else {}),
        }
    )
    lines = [
        f"POST {endpoint.prefix}/v1/completions HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if endpoint.api_key:
        lines.append(f"Authorization: Bearer {endpoint.api_key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def send_completion(
    endpoint: Endpoint, request: BenchRequest, payload: bytes, *, run_start: float, timeout: float
) -> RequestRecord:
    """Send one request and record it; a failure of any kind becomes the record's `error`.

    Args:
        payload: from `request_bytes`, made before the run so that it takes no time during the run.
        run_start: `time.perf_counter()` at the start of the run.
    """
    record = RequestRecord(index=request.index, prompt_tokens=len(request.token_ids))
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if endpoint.tls else None
    start = time.perf_counter()
    record.start = start - run_start
    try:
        async with asyncio.timeout(timeout):
            transport, recorder = await loop.create_connection(_Recorder, endpoint.host, endpoint.port, ssl=context)
            try:
                transport.write(payload)
                await recorder.done
            finally:
                transport.abort()
        read_answer(recorder.pieces, start, record)
    except TimeoutError:
        record.error = f"no answer within {timeout:g} s"
    except (OSError, ValueError, msgspec.DecodeError) as error:
        record.error = f"{type(error).__name__}: {error}"
    if record.error:
        record.latency = time.perf_counter() - start
    return record


def read_answer(received: list[tuple[float, bytes]], start: float, record: RequestRecord) -> None:
    """Fill `record` from the bytes of an answer; `start` is when the request was sent, on the clock of `received`."""
    response = SseResponse()
    times: list[float] = []
    for now, payload in timed_events(received, response):
        event = _event_decoder.decode(payload)
        if event.error:
            record.error = f"error in the stream: {bytes(event.error)[:300].decode(errors='replace')}"
            return
        if event.usage is not None:
            record.output_tokens = event.usage.completion_tokens
            record.prompt_tokens = event.usage.prompt_tokens or record.prompt_tokens
        if not event.choices:
            continue
        choice = event.choices[0]
        record.finish_reason = choice.finish_reason or record.finish_reason
        record.latency = now - start
        # An event that only closes the stream is no token, but the answer lasts until it comes.
        if choice.text or not choice.finish_reason or not times:
            times.append(now - start)
    if response.status == 0:
        record.error = "the server closed the connection without an answer"
    elif response.status != 200:
        record.error = f"HTTP {response.status}: {bytes(response.body[:300]).decode(errors='replace')}"
    elif not times:
        record.error = "the stream had no output"
    elif not (response.complete and record.finish_reason):
        record.error = "the stream broke off"
    elif not record.output_tokens:
        record.error = "the stream had no usage (the server must support stream_options.include_usage)"
    else:
        record.pieces = _share_tokens(times, record.output_tokens)


def _share_tokens(times: list[float], tokens: int) -> list[tuple[float, float]]:
    """Return the pieces of an answer of `tokens` tokens whose events came at `times`."""
    if tokens == 1 or len(times) == 1:
        return [(times[0], float(tokens))]
    rest = (tokens - 1) / (len(times) - 1)
    return [(times[0], 1.0), *((time, rest) for time in times[1:])]
