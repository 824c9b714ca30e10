"""Parse a recorded HTTP/1.1 response whose body is a stream of server-sent events. Pure: bytes in, events out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httptools


class SseResponse:
    """One response: `feed` takes bytes in order and returns the `data:` payloads that these bytes complete."""

    def __init__(self) -> None:
        self.body = bytearray()
        """The whole body, if the status is not 200."""
        self.complete = False
        """Whether the end of the body was seen: the last chunk, the announced length or `[DONE]`."""
        self._parser = httptools.HttpResponseParser(self)
        self._has_headers = False
        self._line = bytearray()
        """The start of a line whose end has not arrived."""
        self._payloads: list[bytes] = []

    @property
    def status(self) -> int:
        """The HTTP status; 0 until the header is complete."""
        return self._parser.get_status_code() if self._has_headers else 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes. Raises ValueError for bytes that are not an HTTP/1.1 response."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"not an HTTP/1.1 response ({error}): {data[:80]!r}") from None
        payloads, self._payloads = self._payloads, []
        return payloads

    # --- called by httptools

    def on_headers_complete(self) -> None:
        self._has_headers = True

    def on_body(self, body: bytes) -> None:
        if self.status != 200:
            self.body += body
            return
        self._line += body
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = bytes(line[5:].strip())
            if payload == b"[DONE]":
                self.complete = True
            else:
                self._payloads.append(payload)

    def on_message_complete(self) -> None:
        self.complete = True


def timed_events(pieces: Iterable[tuple[float, bytes]], response: SseResponse) -> Iterator[tuple[float, bytes]]:
    """Yield (arrival time, payload) of each event; an event arrives with the piece of bytes that completes it."""
    for time, data in pieces:
        for payload in response.feed(data):
            yield time, payload
