"""Shows the state of the pods: a live table on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gllm.terminal import rich_table
from gllm_operator.local.kubelet import LocalPod
from gllm_operator.local.pod_processes import PodProcess

_COLUMNS = ("POD", "ROLE", "ADDRESS", "STATE", "RESTARTS", "AGE", "LAST LINE")


class PodTable:
    """`with PodTable(out, front) as table`, then `table.show(pods)` at each change. front: what clients talk to."""

    def __init__(self, out: TextIO, front: PodProcess) -> None:
        self._console = Console(file=out, highlight=False, soft_wrap=True)
        self._front = front
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._shown: dict[str, str] = {}
        """The last state that was printed, by the pod's name."""
        self._announced = False

    def __enter__(self) -> PodTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, pods: Sequence[LocalPod]) -> None:
        if self._live is not None:
            self._live.update(_table(pods), refresh=True)
        else:
            self._print_changes(pods)
        if not self._announced and any(pod.state == "Ready" and pod.spec == self._front for pod in pods):
            self._announced = True
            self._print(f"serves at {self._front.url}/v1")

    def _print_changes(self, pods: Sequence[LocalPod]) -> None:
        for pod in pods:
            if self._shown.get(pod.spec.name) != pod.state:
                self._shown[pod.spec.name] = pod.state
                self._print(f"{pod.spec.name}: {pod.state}" + (f" ({pod.last_line})" if pod.last_line else ""))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)
        self._console.file.flush()


def _table(pods: Sequence[LocalPod]) -> Table:
    rows = [
        (
            pod.spec.name,
            pod.spec.role,
            pod.spec.address,
            pod.state,
            str(pod.restarts),
            f"{time.monotonic() - pod.since:.0f}s",
            escape(pod.last_line),
        )
        for pod in pods
    ]
    table = rich_table(_COLUMNS, rows)
    table.expand = True
    for index, column in enumerate(table.columns):
        column.no_wrap = True
        column.min_width = max(len(row[index]) for row in rows)
    # Only the last line of the log is shortened: it gets the rest of the width.
    log = table.columns[-1]
    log.min_width, log.ratio, log.overflow = None, 1, "ellipsis"
    return table
