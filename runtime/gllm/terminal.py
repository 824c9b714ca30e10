"""Progress bars and tables on a terminal, all with one look. Elsewhere a bar shows nothing and a table is plain text,
so that logs stay quiet and easy to parse.

rich is imported when the first bar or table is drawn: `gllm --help` and the start of a server do without it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

REFRESH_SECONDS = 0.1
"""Minimum time between two drawings of a bar."""

BarKind = Literal["share", "count", "bytes"]
"""The unit of a bar: percent, single items, or bytes with their rate."""


class Bars:
    """Progress bars below each other, each with a name; they vanish when they are closed.

    Use it as a context manager, or call `close` before anything else is written to the terminal: `show` draws all bars
    again below it.
    """

    def __init__(self, stream: TextIO | None = None, kind: BarKind = "share") -> None:
        self.stream = stream or sys.stderr
        self.visible = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._kind = kind
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._drawn = 0.0

    def show(self, name: str, done: float, total: float | None = 1.0, note: str = "") -> None:
        """Draw a bar.

        Args:
            total: the value of `done` at the end; None if it is not known.
            note: text after the bar.
        """
        if not self.visible:
            return
        if self._progress is None:
            self._progress = _make_progress(self.stream, self._kind)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)
        now = time.monotonic()
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._progress.start()
            self._progress.refresh()

    def remove(self, name: str) -> None:
        """Remove one bar, if it is there."""
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
            if not self._tasks:
                self.close()

    def close(self) -> None:
        """Remove all bars from the terminal."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None
        self._tasks.clear()
        self._drawn = 0.0

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _make_progress(stream: TextIO, kind: BarKind) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counters = {
        "share": (TaskProgressColumn(),),
        "count": (MofNCompleteColumn(), TimeRemainingColumn()),
        "bytes": (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
    }
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *counters[kind],
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream),
        transient=True,
        # rich starts no thread: `Bars.show` draws. rich leaves the output of other code alone.
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )


Row = Sequence[str]


def print_table(columns: Row, rows: Sequence[Row], *, title: str = "", plain: str = "") -> None:
    """Print a table to stdout.

    Args:
        plain: the text to print if stdout is not a terminal; empty: the table in Markdown.
    """
    if not sys.stdout.isatty():
        print(plain or markdown_table(columns, rows))
        return
    from rich.console import Console

    Console(markup=False, highlight=False).print(rich_table(columns, rows, title=title))


def rich_table(columns: Row, rows: Sequence[Row], *, title: str = "") -> Table:
    """Return a rich table. Columns of numbers are right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(row[index][:1].isdigit() for row in rows if row[index])
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(columns: Row, rows: Sequence[Row]) -> str:
    """Return the table in Markdown, with padded cells, so that its source is easy to read."""
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
