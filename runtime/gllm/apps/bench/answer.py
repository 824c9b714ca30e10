"""The record of an answer from the bytes of its stream. Any OpenAI server will do."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.sse import SseResponse, timed_events


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def has_output(self) -> bool:
        """Whether the event carries tokens. The text of a completion may be empty in the middle of a character."""
        delta = self.delta
        if delta is not None:
            return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)
        return bool(self.text) or not self.finish_reason


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Response(msgspec.Struct):
    usage: _Usage | None = None
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    """An event of any endpoint: /v1/responses has `type` and `response`, the others have `choices`."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()
    type: str | None = None
    response: _Response | None = None

    @property
    def failure(self) -> bytes:
        """The error that the server reports, as JSON; empty without one."""
        for error in (self.error, self.response.error if self.response else b""):
            if error and bytes(error) != b"null":
                return bytes(error)
        return b'"response failed"' if self.type in ("error", "response.failed") else b""


_event_decoder = msgspec.json.Decoder(_Event)
_ENDS = ("response.completed", "response.incomplete")


def read_answer(received: list[tuple[float, bytes]], start: float, record: RequestRecord) -> None:
    """Fill `record` from the bytes of an answer; `start` is when the request was sent, on the clock of `received`."""
    response = SseResponse()
    times: list[float] = []
    for now, payload in timed_events(received, response):
        event = _event_decoder.decode(payload)
        if event.failure:
            record.error = f"error in the stream: {event.failure[:300].decode(errors='replace')}"
            return
        usage = event.usage or (event.response.usage if event.response else None)
        if usage is not None:
            _take_usage(usage, record)
        ends, has_output = _what_happens(event)
        if not ends and not has_output:
            continue
        record.finish_reason = ends or record.finish_reason
        record.latency = now - start
        # An event that only closes the stream is no token, but the answer lasts until it comes.
        if has_output or not times:
            times.append(now - start)
    if response.status == 0:
        record.error = "the server closed the connection without an answer"
    elif response.status != 200:
        record.error = f"HTTP {response.status}: {bytes(response.body[:300]).decode(errors='replace')}"
    elif not times:
        record.error = "the stream had no output"
    elif not (response.complete or record.finish_reason):
        record.error = "the stream broke off"
    else:
        record.counted = record.output_tokens > 0
        record.output_tokens = record.output_tokens or len(times)
        record.pieces = _share_tokens(times, record.output_tokens)


def _what_happens(event: _Event) -> tuple[str, bool]:
    """Return (finish reason or "", whether the event carries tokens)."""
    if event.type is not None:
        ends = event.type.removeprefix("response.") if event.type in _ENDS else ""
        return ends, event.type.endswith(".delta")
    if not event.choices:
        return "", False
    choice = event.choices[0]
    return choice.finish_reason or "", choice.has_output


def _take_usage(usage: _Usage, record: RequestRecord) -> None:
    record.output_tokens = usage.completion_tokens or usage.output_tokens or record.output_tokens
    record.prompt_tokens = usage.prompt_tokens or usage.input_tokens or record.prompt_tokens
    details = usage.prompt_tokens_details or usage.input_tokens_details
    if details is not None and details.cached_tokens is not None:
        record.cached_tokens = details.cached_tokens


def _share_tokens(times: list[float], tokens: int) -> list[tuple[float, float]]:
    """Return the pieces of an answer of `tokens` tokens whose events came at `times`."""
    if tokens == 1 or len(times) == 1:
        return [(times[0], float(tokens))]
    rest = (tokens - 1) / (len(times) - 1)
    return [(times[0], 1.0), *((time, rest) for time in times[1:])]
