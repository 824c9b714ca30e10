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
    return min([free, *(_free_of(folder) for folder in _own_groups(cgroups))])


def _own_groups(cgroups: Path) -> Iterator[Path]:
    """This process's cgroup (v2) and those around it that have a memory limit."""
    try:
        name = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        name = ""
    folder = cgroups / name.removeprefix("0::").strip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(cgroups):
            return
        try:
            if (group / "memory.max").read_text().strip() != "max":
                yield group
        except OSError:  # no cgroup v2, or not seen from inside a container
            continue


def _free_of(group: Path) -> int:
    used = int((group / "memory.current").read_text())
    for line in (group / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key in ("active_file", "inactive_file"):
            used -= int(value)
    return int((group / "memory.max").read_text()) - used
