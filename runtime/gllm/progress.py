"""The progress of long work: a bar on a terminal; elsewhere a line now and then, so that a log shows that it goes on.

    with Progress("cases", total) as progress:
        for case in cases:
            run(case)
            progress.update()

`gllm.apps.request_progress` counts tokens and failures too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self, TextIO

from gllm.terminal import Bars

LINE_SECONDS = 30.0
"""Time between two lines on a stream that is not a terminal; shorter work writes none."""


class Progress:
    """Counts what is done of some items, on stderr. A context manager."""

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        stream: TextIO | None = None,
        visible: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: of the items, in the plural.
            total: the number of items; None if it is not known.
            visible: whether to show anything.
        """
        self.done = 0
        self._name = name
        self._total = total
        self._bars = Bars(stream, "count")
        self._visible = visible
        self._clock = clock
        self._start = clock()
        self._next_line = self._start + LINE_SECONDS

    def update(self, note: str = "") -> None:
        """Count one more item. note: text behind the count."""
        self.show(self.done + 1, self._total, note)

    def show(self, done: int, total: int | None, note: str = "") -> None:
        """Set the count, for work that counts itself."""
        self.done, self._total = done, total
        if self.is_bar:
            self._bars.show(self._name, done, total, note=note)
        elif self._visible and self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_SECONDS
            self.line(f"{self.count}, {note}" if note else self.count)

    @property
    def is_bar(self) -> bool:
        """Whether a bar is shown."""
        return self._visible and self._bars.visible

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return self._clock() - self._start

    @property
    def count(self) -> str:
        """What is done, such as `3/12 cases`."""
        of_total = "" if self._total is None else f"/{self._total}"
        return f"{self.done}{of_total} {self._name}"

    def close(self) -> None:
        """Remove the bar."""
        self._bars.close()

    def line(self, text: str) -> None:
        """Write a whole line, after `close` if there is a bar."""
        print(text, file=self._bars.stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
