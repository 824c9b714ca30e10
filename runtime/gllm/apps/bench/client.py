"""A client for streams of OpenAI servers that costs little CPU time.

On a small machine the client takes CPU time from the server that it measures. So while a stream runs, this client only
records bytes and their times. It parses HTTP and JSON after the stream has ended. Each request has its own connection.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from urllib.parse import urlsplit

import msgspec

from gllm.apps.bench.answer import read_answer
from gllm.apps.bench.payload import DEFAULT_STYLE, PATHS, Style, body_of
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
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


def request_bytes(endpoint: Endpoint, request: BenchRequest, style: Style = DEFAULT_STYLE) -> bytes:
    """Return the whole HTTP request."""
    body = body_of(request, endpoint.model, style)
    headers = {
        "Host": f"{endpoint.host}:{endpoint.port}",
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **({"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}),
        **style.headers,
    }
    lines = [
        f"POST {endpoint.prefix}{PATHS[style.api]} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def send_request(
    endpoint: Endpoint, request: BenchRequest, payload: bytes, *, run_start: float, timeout: float
) -> RequestRecord:
    """Send one request and record it; a failure of any kind becomes the record's `error`.

    Args:
        payload: from `request_bytes`, made before the run so that it takes no time during the run.
        run_start: `time.perf_counter()` at the start of the run.
    """
    record = RequestRecord(index=request.index, prompt_tokens=request.prompt_tokens)
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
