"""How far a start is: a bar on a terminal and a few lines elsewhere, and one number for whoever asks the gateway."""

from __future__ import annotations

import shutil
from typing import TextIO

from gllm.wire.messages import ProcessStatus

_BAR_WIDTH = 28
_LINE_EVERY = 0.25
"""Share of the progress after which a log that is no terminal gets another line."""


class LoadProgress:
    """How far all ranks of an epoch are with their weights, together: they hold about equal shares of the bytes."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self.start()

    def start(self) -> None:
        """A new epoch."""
        self._ranks: dict[str, float] = {}
        self._told = -1

    @property
    def share(self) -> float | None:
        """0 to 1; None while no rank has begun."""
        return sum(self._ranks.values()) / self._world_size if self._ranks else None

    def hear(self, status: ProcessStatus) -> bool:
        """Take a worker's report in; whether that is news, of a hundredth or more."""
        if status.state != "loading":
            return False
        self._ranks[status.role] = status.progress
        hundredths = int(100 * (self.share or 0.0))
        told, self._told = self._told, hundredths
        return told != hundredths


class ProgressPrinter:
    """Prints the stages of a start to `stream`, each once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._bar_shown = False
        self._stage: dict[str, tuple[str, int]] = {}
        """Role to the last stage printed and the share of it, in steps of _LINE_EVERY."""

    def line(self, text: str) -> None:
        """Print one whole line, in place of the bar if there is one."""
        self.clear()
        print(text, file=self._stream, flush=True)

    def status(self, status: ProcessStatus) -> None:
        """Show where a child stands, if that is news."""
        if status.state != "loading":
            self.clear()
            return
        stage = f"{status.role}: {status.detail or 'loading'}"
        if self._is_terminal and 0.0 < status.progress < 1.0:
            self._bar(stage, status.progress)
            return
        shown = (stage, int(status.progress / _LINE_EVERY))
        if self._stage.get(status.role) == shown:
            return
        self._stage[status.role] = shown
        # A terminal has seen the bar: what remains to be said is that a stage begins or is done.
        share = f" {status.progress:.0%}" if status.progress > 0.0 else ""
        self.line(stage + share)

    def _bar(self, stage: str, progress: float) -> None:
        filled = round(progress * _BAR_WIDTH)
        text = f"{stage} [{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {progress:4.0%}"
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r{text[:width]}\x1b[K")
        self._stream.flush()
        self._bar_shown = True

    def clear(self) -> None:
        """Remove the bar, so that somebody else may print."""
        if self._bar_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._bar_shown = False
