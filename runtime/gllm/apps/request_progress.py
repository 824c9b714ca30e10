"""The progress of many requests, with their tokens and failures. On a terminal the bar leaves one line."""

from __future__ import annotations

from typing import TextIO

from gllm.progress import Progress


class RequestProgress:
    """Counts requests that have ended. A context manager."""

    def __init__(self, total: int | None, *, stream: TextIO | None = None, visible: bool = True) -> None:
        """
        Args:
            total: the number of requests; None if it is not known.
            visible: whether to show anything.
        """
        self._progress = Progress("requests", total, stream=stream, visible=visible)
        self.failed = 0
        self.tokens = 0

    @property
    def done(self) -> int:
        return self._progress.done

    def update(self, tokens: int, *, failed: bool = False) -> None:
        """Count one more request that has ended."""
        self.failed += failed
        self.tokens += tokens
        self._progress.update(self._figures())

    def __str__(self) -> str:
        return f"{self._progress.count}, {self._figures()}"

    def _figures(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.tokens} tokens, {self.tokens / max(self._progress.seconds, 1e-9):.0f} tok/s{failed}"

    def __enter__(self) -> RequestProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.close()
        if self._progress.is_bar:
            self._progress.line(str(self))
