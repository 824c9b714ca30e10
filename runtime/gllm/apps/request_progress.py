"""The progress of many requests: a bar on stderr that leaves one line."""

from __future__ import annotations

import time
from typing import TextIO

from gllm.terminal import Bars


class RequestProgress:
    """Counts requests that have ended, and draws a bar if stderr is a terminal. A context manager."""

    def __init__(self, total: int | None, *, stream: TextIO | None = None, visible: bool = True) -> None:
        """
        Args:
            total: the number of requests; None if it is not known.
            visible: whether to draw at all.
        """
        self._total = total
        self._bars = Bars(stream, "count")
        self._bars.visible = self._bars.visible and visible
        self._start = time.monotonic()
        self.done = 0
        self.failed = 0
        self.tokens = 0

    def update(self, tokens: int, *, failed: bool = False) -> None:
        """Count one more request that has ended."""
        self.done += 1
        self.failed += failed
        self.tokens += tokens
        if self._bars.visible:
            self._bars.show("requests", self.done, self._total, note=self._figures())

    def __str__(self) -> str:
        of_total = "" if self._total is None else f"/{self._total}"
        return f"{self.done}{of_total} requests, {self._figures()}"

    def _figures(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.tokens} tokens, {self.tokens / seconds:.0f} tok/s{failed}"

    def __enter__(self) -> RequestProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.close()
        if self._bars.visible:
            print(self, file=self._bars.stream, flush=True)
