"""How much memory there is, how much the weights take, and so how many KV pages fit."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gllm.config import EngineConfig

DEFAULT_CPU_KV_BYTES = 512 * 1024**2
GIB = 1024**3


def available_bytes(device: torch.device) -> int:
    """Free memory of the device; on CPU also bounded by the cgroup's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, limit - used)
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        pass
    return free


def check_weights_fit(weight_bytes: int, device: torch.device) -> None:
    """Raises ValueError before anything is allocated."""
    free = available_bytes(device)
    if weight_bytes > free:
        raise ValueError(
            f"the model's weights need {weight_bytes / GIB:.1f} GiB but only {free / GIB:.1f} GiB of "
            f"{device.type} memory is free; use a smaller --dtype, a smaller model or a larger machine"
        )


def kv_pages(
    config: EngineConfig, page_bytes: int, max_model_len: int, device: torch.device, peak_bytes: int, sharers: int = 1
) -> int:
    """Pages that fit the budget.

    page_bytes: one page over all layers of this rank. peak_bytes: what a forward pass takes at most beside
    weights and KV (measured). On CUDA the budget is gpu_memory_utilization of the whole device less what is
    used, or, where `sharers` ranks share the device, this rank's part of it less what this rank uses. On CPU it
    is --kv-cache-memory, by default enough for max_num_seqs sequences of max_model_len but at most 512 MiB, so
    that a small model stays small.
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
        wanted = max(one_sequence, min(DEFAULT_CPU_KV_BYTES, one_sequence * config.max_num_seqs))
        budget = min(wanted, (available_bytes(device) - peak_bytes) // 2)
    pages = budget // page_bytes
    if pages < 2:
        raise ValueError(
            f"no memory is left for the KV cache: {budget / GIB:.2f} GiB after the weights, and one page of "
            f"{config.page_size} tokens takes {page_bytes / GIB:.4f} GiB; raise --kv-cache-memory or "
            f"--gpu-memory-utilization, or use a smaller model"
        )
    return int(pages)
