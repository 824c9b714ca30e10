"""Measure memory and CPU time of a server's processes and of the machine, from /proc."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """Return the pids of `root` and its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += parents.get(pid, [])
    return found


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third (state) on, or [] if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(root: int) -> float:
    """Return the user and system seconds of the whole tree, with reaped children."""
    total = 0
    for pid in tree(root):
        fields = _stat_fields(pid)
        # utime, stime, cutime, cstime are fields 14 to 17 of proc(5).
        total += sum(int(value) for value in fields[11:15])
    return total / _TICKS


def machine_cpu_seconds() -> float:
    """Return the busy seconds of all cores together since boot."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def memory_bytes(root: int) -> int:
    """Return the sum of proportional set sizes over the tree, in which shared pages count once."""
    total = 0
    for pid in tree(root):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


class Watch:
    """Measure, between enter and exit, the tree's peak memory and the CPU share of other processes."""

    def __init__(self, root: int, interval: float = 5.0) -> None:
        self._root = root
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_bytes = 0
        self.foreign_cpu = 0.0
        """Share of all cores that other processes used: near 0 on a quiet machine; above 0.1 the run is unreliable."""
        self.server_cpu = 0.0
        """Share of all cores that the server used."""

    def __enter__(self) -> Watch:
        self._before = self._clocks()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        wall, machine, server, own = (
            after - before for after, before in zip(self._clocks(), self._before, strict=True)
        )
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, memory_bytes(self._root))
        cores = (os.cpu_count() or 1) * wall
        self.server_cpu = server / cores
        self.foreign_cpu = max(0.0, machine - server - own) / cores

    def _clocks(self) -> tuple[float, float, float, float]:
        return time.monotonic(), machine_cpu_seconds(), cpu_seconds(self._root), sum(os.times()[:4])

    def _sample(self) -> None:
        # A long interval: for each sample the kernel walks the page tables of gigabytes, on the measured cores.
        while not self._stop.wait(self._interval):
            self.peak_bytes = max(self.peak_bytes, memory_bytes(self._root))
