"""Progress of a start: bars on a terminal, a few lines elsewhere, and one number for the gateway's clients."""

from __future__ import annotations

from typing import TextIO

from gllm.terminal import Bars
from gllm.wire.messages import ProcessStatus

_LINE_EVERY = 0.25
"""A stream that is not a terminal gets another line each time the progress grows by this share."""


class LoadProgress:
    """Share of the weights that all ranks of an epoch have loaded; each rank holds about the same number of bytes."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self.start()

    def start(self) -> None:
        """Begin an epoch."""
        self._ranks: dict[str, float] = {}
        self._hundredths = -1

    @property
    def share(self) -> float | None:
        """0 to 1; None while no rank has begun."""
        return sum(self._ranks.values()) / self._world_size if self._ranks else None

    def update(self, status: ProcessStatus) -> bool:
        """Record a worker's report. Returns whether the share, in hundredths, changed."""
        if status.state != "loading":
            return False
        self._ranks[status.role] = status.progress
        hundredths = int(100 * (self.share or 0.0))
        before, self._hundredths = self._hundredths, hundredths
        return before != hundredths


class ProgressPrinter:
    """Prints each stage of a start once to `stream`; a terminal also shows a bar for each process that is loading."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars = Bars(stream)
        self._stage: dict[str, tuple[str, int]] = {}
        """Role to the last stage printed and its share, in steps of _LINE_EVERY."""

    def line(self, text: str) -> None:
        """Print one whole line, in place of the bars if there are any."""
        self.clear()
        print(text, file=self._stream, flush=True)

    def status(self, status: ProcessStatus) -> None:
        """Show the state of a process, if it has changed."""
        if status.state != "loading":
            self._bars.remove(status.role)
            return
        detail = status.detail or "loading"
        if self._bars.visible and 0.0 < status.progress < 1.0:
            self._bars.show(status.role, status.progress, note=detail)
            return
        stage = f"{status.role}: {detail}"
        shown = (stage, int(status.progress / _LINE_EVERY))
        if self._stage.get(status.role) == shown:
            return
        self._stage[status.role] = shown
        # On a terminal the bar shows the progress between the start and the end of a stage.
        share = f" {status.progress:.0%}" if status.progress > 0.0 else ""
        self.line(stage + share)

    def clear(self) -> None:
        """Remove the bars, so that other code may print."""
        self._bars.close()
