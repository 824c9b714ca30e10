"""Take apart a recorded HTTP/1.1 response whose body is a stream of server-sent events. Pure: bytes in, events out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class HttpStream:
    """Incremental parser of one response: feed bytes as they came, get the `data:` payloads that they completed."""

    def __init__(self) -> None:
        self.status = 0
        """0 until the header is complete."""
        self.body = bytearray()
        """Of an answer other than 200: the whole body."""
        self.complete = False
        """The body's end was seen (its last chunk, its length, or `[DONE]`)."""
        self._header = bytearray()
        self._chunked = False
        self._length: int | None = None
        self._chunk_buffer = bytearray()
        self._chunk_left = 0
        self._line_buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        if self.status == 0:
            self._header += data
            end = self._header.find(b"\r\n\r\n")
            if end < 0:
                return []
            data = bytes(self._header[end + 4 :])
            self._read_header(bytes(self._header[:end]))
        body = self._dechunk(data) if self._chunked else data
        if self._length is not None:
            self._length -= len(body)
            self.complete = self.complete or self._length <= 0
        if self.status != 200:
            self.body += body
            return []
        return list(self._payloads(body))

    def _read_header(self, header: bytes) -> None:
        status_line, *lines = header.split(b"\r\n")
        parts = status_line.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise ValueError(f"not an HTTP/1.1 answer: {status_line[:80]!r}")
        self.status = int(parts[1])
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip().lower()
            if name == b"transfer-encoding" and value == b"chunked":
                self._chunked = True
            elif name == b"content-length" and value.isdigit():
                self._length = int(value)

    def _dechunk(self, data: bytes) -> bytes:
        """RFC 9112 section 7.1, without trailers or extensions."""
        buffer, out = self._chunk_buffer, bytearray()
        buffer += data
        while buffer and not self.complete:
            if self._chunk_left == 0:
                end = buffer.find(b"\r\n")
                if end < 0:
                    break
                size = int(buffer[:end].split(b";")[0], 16)
                del buffer[: end + 2]
                if size == 0:
                    self.complete = True
                    break
                self._chunk_left = size + 2
            taken = bytes(buffer[: self._chunk_left])
            del buffer[: len(taken)]
            # The chunk's own CRLF is the last two of `_chunk_left` bytes and belongs to no one.
            out += taken[: max(0, self._chunk_left - 2)]
            self._chunk_left -= len(taken)
        return bytes(out)

    def _payloads(self, body: bytes) -> Iterator[bytes]:
        self._line_buffer += body
        *lines, rest = self._line_buffer.split(b"\n")
        self._line_buffer = bytearray(rest)
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = bytes(line[5:].strip())
            if payload == b"[DONE]":
                self.complete = True
            else:
                yield payload


def timed_events(pieces: Iterable[tuple[float, bytes]], stream: HttpStream) -> Iterator[tuple[float, bytes]]:
    """(arrival time, payload) of each event; an event arrives with the piece of bytes that completes it."""
    for time, data in pieces:
        for payload in stream.feed(data):
            yield time, payload
