"""A line on stderr that counts finished requests."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_REFRESH_SECONDS = 0.1


class ProgressLine:
    """`120/1000 requests, 8123 tokens, 912 tok/s, 2 failed`, redrawn in place on a terminal; elsewhere silent."""

    def __init__(self, total: int | None, *, stream: TextIO | None = None, shown: bool = True) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._shown = shown and self._stream.isatty()
        self._start = time.monotonic()
        self._drawn = 0.0
        self.done = 0
        self.failed = 0
        self.tokens = 0

    def update(self, tokens: int, *, failed: bool = False) -> None:
        """One more request has ended."""
        self.done += 1
        self.failed += failed
        self.tokens += tokens
        now = time.monotonic()
        if self._shown and now - self._drawn >= _REFRESH_SECONDS:
            self._drawn = now
            self._stream.write(f"\r{self}\x1b[K")
            self._stream.flush()

    def finish(self) -> None:
        """Leave the last state on the terminal, as a line of its own."""
        if self._shown:
            self._stream.write(f"\r{self}\x1b[K\n")
            self._stream.flush()

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        of_total = "" if self._total is None else f"/{self._total}"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}{of_total} requests, {self.tokens} tokens, {self.tokens / seconds:.0f} tok/s{failed}"
