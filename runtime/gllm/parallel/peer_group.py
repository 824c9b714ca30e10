"""A tensor-parallel group whose sums of decode sizes go through peer memory: a third of the time that NCCL takes."""

from __future__ import annotations

import logging
from typing import Protocol

import torch

from gllm.parallel.peer_memory import Meeting, NoPeerMemory, share
from gllm.parallel.tensor_group import TensorGroup

logger = logging.getLogger(__name__)

_MOST_BYTES = {2: 10 << 20, 3: 2 << 20, 4: 2 << 20}
"""Largest sum by group size. A rank sends all values to each other rank, while NCCL divides the work. With two ranks
both send the same, and 10 MiB was the largest sum measured (docs/performance.md); the others are estimates."""
_MOST_BYTES_OTHERWISE = 256 << 10


class Sum(Protocol):
    """Sums of 16-bit values over ranks, in place. See `gllm_kernels.triton.one_shot.OneShotSum`."""

    capacity: int
    """Maximum number of values."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class PeerGroup:
    """Small sums of 16-bit values as `small` does them, all else as `inner`. Ranks choose alike: by size and type."""

    def __init__(self, inner: TensorGroup, small: Sum) -> None:
        self.size = inner.size
        self.rank = inner.rank
        self._inner = inner
        self._small = small
        self.all_gather = inner.all_gather
        self.all_to_all = inner.all_to_all
        self.broadcast = inner.broadcast

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() <= self._small.capacity and x.itemsize == 2 and x.is_floating_point():
            return self._small(x)
        return self._inner.all_reduce(x)


def with_peer_memory(inner: TensorGroup, meeting: Meeting, device: torch.device) -> TensorGroup:
    """Return `inner` with small sums over peer memory, or `inner` itself, with a line in the log, if there is none."""
    from gllm_kernels.triton.one_shot import EMPTY, OneShotSum, buffer_bytes

    capacity = _MOST_BYTES.get(inner.size, _MOST_BYTES_OTHERWISE) // 2
    try:
        addresses = share(meeting, device, buffer_bytes(inner.size, capacity), EMPTY)
    except NoPeerMemory as reason:
        if inner.rank == 0:
            logger.warning("sums over tensor-parallel ranks go through NCCL: %s", reason)
        return inner
    return PeerGroup(inner, OneShotSum(addresses, inner.rank, capacity, device))
