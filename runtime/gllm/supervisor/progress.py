"""Progress of a start: bars on a terminal, a few lines elsewhere, and one number for the gateway's clients."""

from __future__ import annotations

from typing import TextIO

from gllm.terminal import Bars
from gllm.wire.messages import ProcessStatus

_LINE_EVERY = 0.25
"""Share of the progress after which a log that is no terminal gets another line."""


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
        """Take a worker's report. Returns whether the share, in hundredths, changed."""
        if status.state != "loading":
            return False
        self._ranks[status.role] = status.progress
        hundredths = int(100 * (self.share or 0.0))
        before, self._hundredths = self._hundredths, hundredths
        return before != hundredths


class ProgressPrinter:
    """Prints the stages of a start to `stream`, each once; on a terminal a bar for each process that loads weights."""

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
        """Show the state of a process, if it is news."""
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
        # On a terminal the bar shows what is between the begin of a stage and its end.
        share = f" {status.progress:.0%}" if status.progress > 0.0 else ""
        self.line(stage + share)

    def clear(self) -> None:
        """Remove the bars, so that other code may print."""
        self._bars.close()
