"""The state of the pods: a table that redraws itself on a terminal, a line at each change elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from gllm_operator.local.kubelet import LocalPod

_COLUMNS = "{:<32} {:<7} {:<12} {:<9} {:>8} {:>5}  {}"


class Table:
    def __init__(self, out: TextIO, endpoint: str) -> None:
        self._out = out
        self._endpoint = endpoint
        self._live = out.isatty()
        self._drawn = 0
        self._told: dict[str, str] = {}
        self._announced = False

    def show(self, pods: Sequence[LocalPod]) -> None:
        if self._live:
            self._redraw(pods)
        else:
            self._tell(pods)
        if not self._announced and any(pod.state == "Ready" for pod in pods):
            self._announced = True
            self._drawn = 0
            print(f"serves at {self._endpoint}", file=self._out, flush=True)

    def _redraw(self, pods: Sequence[LocalPod]) -> None:
        width = shutil.get_terminal_size().columns - 1
        lines = [_COLUMNS.format("POD", "ROLE", "ADDRESS", "STATE", "RESTARTS", "AGE", "LAST WORD"), *map(_row, pods)]
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A")
        for line in lines:
            self._out.write(f"{line[:width]}\x1b[K\n")
        self._out.flush()
        self._drawn = len(lines)

    def _tell(self, pods: Sequence[LocalPod]) -> None:
        for pod in pods:
            if self._told.get(pod.spec.name) != pod.state:
                self._told[pod.spec.name] = pod.state
                print(
                    f"{pod.spec.name}: {pod.state}" + (f" ({pod.last_line})" if pod.last_line else ""),
                    file=self._out,
                    flush=True,
                )


def _row(pod: LocalPod) -> str:
    age = f"{time.monotonic() - pod.since:.0f}s"
    spec = pod.spec
    return _COLUMNS.format(spec.name, spec.role, spec.address, pod.state, pod.restarts, age, pod.last_line)
