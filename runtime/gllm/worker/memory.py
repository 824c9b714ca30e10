"""The memory budget: free memory, the weights, and the number of KV pages that fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from gllm.config import EngineConfig

DEFAULT_CPU_KV_BYTES = 512 * 1024**2
GIB = 1024**3
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Needs:
    """The memory that one rank will use, in bytes."""

    weights: int
    page: int
    """One KV page over all layers of the rank."""


def available_bytes(device: torch.device) -> int:
    """Return the free bytes of the device; on a CPU also bounded by the cgroup's limit."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes()


def check_fits(config: EngineConfig, ranks: Sequence[Needs], device: torch.device) -> None:
    """Raise ValueError, before anything is allocated, if the weights or the KV cache that was asked for do not fit.

    ranks: the needs of all ranks that share the device's memory.
    """
    free = available_bytes(device)
    weights = sum(rank.weights for rank in ranks)
    several = f" of {len(ranks)} ranks" if len(ranks) > 1 else ""
    if weights > free:
        raise ValueError(
            f"the model's weights{several} need {weights / GIB:.1f} GiB but only {free / GIB:.1f} GiB of "
            f"{device.type} memory is free; use a smaller --dtype, a smaller model or a larger machine"
        )
    if config.num_pages:
        flag, asked = f"--num-pages {config.num_pages}", sum(config.num_pages * rank.page for rank in ranks)
    else:
        flag, asked = "--kv-cache-memory", config.kv_cache_memory * len(ranks)
    if asked > free - weights:
        raise ValueError(
            f"{flag}: {asked / GIB:.1f} GiB asked for{several}, {(free - weights) / GIB:.1f} GiB available: of the "
            f"{free / GIB:.1f} GiB of free {device.type} memory the weights take {weights / GIB:.1f}; ask for less"
        )


def kv_pages(
    config: EngineConfig, page_bytes: int, max_model_len: int, device: torch.device, peak_bytes: int, sharers: int = 1
) -> int:
    """Return the number of KV pages that fit the budget.

    page_bytes: one page over all layers of this rank. peak_bytes: the measured peak of a forward pass besides weights
    and KV. The budget is --kv-cache-memory if it is set. Otherwise, on CUDA, it is gpu_memory_utilization of the whole
    device minus the used memory; if `sharers` ranks share the device, this rank's part minus what this rank uses. On a
    CPU it is enough for max_num_seqs sequences of max_model_len but at most 512 MiB, so that a small model stays small;
    it is at least one sequence, and at most half of this rank's share of the free memory.
    Raises ValueError if fewer than two pages fit.
    """
    if config.num_pages:
        return config.num_pages
    if config.kv_cache_memory:
        budget = config.kv_cache_memory
    elif device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = total - free if sharers == 1 else torch.cuda.memory_reserved(device)
        budget = int(total * config.gpu_memory_utilization) // sharers - used - peak_bytes
    else:
        one_sequence = -(-max_model_len // config.page_size) * page_bytes
        default = max(one_sequence, min(DEFAULT_CPU_KV_BYTES, one_sequence * config.max_num_seqs))
        budget = min(default, (available_bytes(device) - peak_bytes) // (2 * sharers))
    pages = budget // page_bytes
    if pages < 2:
        raise ValueError(
            f"no memory is left for the KV cache: {budget / GIB:.2f} GiB after the weights, and one page of "
            f"{config.page_size} tokens takes {page_bytes / GIB:.4f} GiB; raise --kv-cache-memory or "
            f"--gpu-memory-utilization, or use a smaller model"
        )
    return int(pages)


@contextmanager
def room_for_graphs() -> Iterator[None]:
    """Say what to do if the device has no memory left for captured graphs, which are not part of the KV budget.

    Raises RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:  # torch's OutOfMemoryError is one; the driver's own lack of memory has no class
        if "out of memory" not in str(error):
            raise
        raise RuntimeError(
            "no memory is left for CUDA graphs; lower --gpu-memory-utilization or --kv-cache-memory, or set "
            f"--enforce-eager ({error})"
        ) from error


def free_host_bytes(meminfo: Path = Path("/proc/meminfo"), cgroups: Path = _CGROUPS) -> int:
    """Return the bytes that can be allocated before the kernel kills a process; the page cache counts as free."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return min([free, *_free_in_groups(cgroups)])


def _free_in_groups(cgroups: Path) -> Iterator[int]:
    """Yield the bytes left under the limits of this process's cgroup (v2) and of its parents."""
    for group in _own_groups(cgroups):
        try:
            limit, used = (group / "memory.max").read_text(), int((group / "memory.current").read_text())
            if limit.strip() != "max":
                yield int(limit) - used + _cached_files(group)
        except (OSError, ValueError):  # no cgroup v2, or not visible inside a container
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
    """Return the bytes that the kernel frees when memory is needed."""
    counts = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return sum(int(value) for key, value in counts if key in ("active_file", "inactive_file"))
