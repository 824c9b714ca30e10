"""Bytes of streamed chunks. A chunk is made for every token of every stream, so the constant parts are joined once."""

from __future__ import annotations

from typing import Any

import msgspec

from gllm import __version__

SYSTEM_FINGERPRINT = f"gllm-{__version__}"
"""OpenAI's `system_fingerprint`: the version of the server."""

DONE = b"data: [DONE]\n\n"
"""The last frame of OpenAI's streams."""

Event = dict[str, Any]
"""A named event of the Responses and Messages APIs; `type` is its name."""

_json = msgspec.json.Encoder().encode


class Chunks:
    """Frames of one stream: `data: {...}` with OpenAI's fields in OpenAI's order."""

    def __init__(self, kind: str, response_id: str, created: int, model: str, include_usage: bool) -> None:
        head = _json(
            {
                "id": response_id,
                "object": kind,
                "created": created,
                "model": model,
                "system_fingerprint": SYSTEM_FINGERPRINT,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        # With include_usage every chunk but the last says "usage": null.
        self._close = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self.counts: dict[str, Any] | None = None
        """The usage so far, which every chunk shows; None if the request does not ask for it."""
        self._delta_head: dict[int, bytes] = {}
        self._text_head: dict[int, bytes] = {}
        self._delta_tail = b'},"logprobs":null,"finish_reason":null}' + self._close
        self._text_tail = b',"logprobs":null,"finish_reason":null}' + self._close

    def content(self, index: int, text: str) -> bytes:
        """Return a chat chunk with text only: almost every token is sent in one."""
        if self.counts is not None:
            return self.delta(index, {"content": text})
        head = self._delta_head.get(index)
        if head is None:
            head = self._delta_head[index] = self._head + b'{"index":%d,"delta":{"content":' % index
        return b"".join((head, _json(text), self._delta_tail))

    def delta(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
        more: dict[str, Any] | None = None,
        top: dict[str, Any] | None = None,
    ) -> bytes:
        """Return any chat chunk. more: further fields of the choice; top: of the chunk."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._choice(choice | more if more else choice, top)

    def text(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> bytes:
        """Return a text-completion chunk. more: further fields of the choice."""
        if logprobs is None and finish is None and not more and self.counts is None:
            head = self._text_head.get(index)
            if head is None:
                head = self._text_head[index] = self._head + b'{"index":%d,"text":' % index
            return b"".join((head, _json(text), self._text_tail))
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return self._choice(choice | more if more else choice)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """Return the last chunk of include_usage, which has no choices."""
        return self._head + b'],"usage":' + _json(usage) + b"}\n\n"

    def _choice(self, choice: dict[str, Any], top: dict[str, Any] | None = None) -> bytes:
        close = self._close if self.counts is None else b'],"usage":' + _json(self.counts) + b"}\n\n"
        if top:
            return b"".join((self._head, _json(choice), b"],", _json(top)[1:-1], close[1:]))
        return b"".join((self._head, _json(choice), close))


def error_frame(body: bytes) -> bytes:
    """Return the frame of an error in a stream. It is the last one: no [DONE] follows."""
    return b"data: " + body + b"\n\n"


def event_frame(event: Event) -> bytes:
    kind: str = event["type"]
    return b"".join((b"event: ", kind.encode(), b"\ndata: ", _json(event), b"\n\n"))
