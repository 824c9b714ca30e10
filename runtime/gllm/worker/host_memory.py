"""Memory that this machine, or the control groups the process is in, can still give."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def free_host_bytes(meminfo: Path = Path("/proc/meminfo"), cgroups: Path = _CGROUPS) -> int:
    """Bytes that can be allocated before something is killed; the page cache counts as free."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return min([free, *_free_in_groups(cgroups)])


def _free_in_groups(cgroups: Path) -> Iterator[int]:
    """What the limits of this process's cgroup (v2) and those around it leave."""
    for group in _own_groups(cgroups):
        try:
            limit, used = (group / "memory.max").read_text(), int((group / "memory.current").read_text())
            if limit.strip() != "max":
                yield int(limit) - used + _cached_files(group)
        except (OSError, ValueError):  # no such file: no cgroup v2, or not seen from inside a container
            continue


def _own_groups(cgroups: Path) -> Iterator[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    folder = cgroups / name.strip("/")
    yield from (group for group in (folder, *folder.parents) if group.is_relative_to(cgroups))


def _cached_files(group: Path) -> int:
    """Bytes that make room when memory is asked for."""
    counts = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return sum(int(value) for key, value in counts if key in ("active_file", "inactive_file"))
