"""A tensor-parallel group whose sums go through peer memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch

from gllm.parallel.peer_memory import Meeting, NoPeerMemory, share
from gllm.parallel.tensor_group import TensorGroup

logger = logging.getLogger(__name__)

_ONE_SHOT_BYTES = {2: 5 << 20, 3: 640 << 10, 4: 256 << 10}
"""Largest one-shot sum by group size: its bytes grow with the group, those of a two-shot sum hardly. Measured for two
ranks; for others computed from the latency and the bandwidth that two have (docs/performance.md)."""
_ONE_SHOT_BYTES_OTHERWISE = 64 << 10
_TWO_SHOT_BYTES = 24 << 20
"""Largest sum that does not go to NCCL: 2400 tokens of 5120 values."""


class Sum(Protocol):
    """Sums of 16-bit values over ranks, in place. See `gllm_kernels.triton.peer_sum`."""

    capacity: int
    """Maximum number of values."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class PeerGroup:
    """Sums of 16-bit values by the first of `sums` with room for them, all else as `inner` does it.

    The choice depends on size and type, so all ranks choose alike.
    """

    def __init__(self, inner: TensorGroup, sums: Sequence[Sum]) -> None:
        self.size = inner.size
        self.rank = inner.rank
        self._inner = inner
        self._sums = sums
        self.all_gather = inner.all_gather
        self.all_to_all = inner.all_to_all
        self.broadcast = inner.broadcast

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if x.itemsize == 2 and x.is_floating_point():
            for sums in self._sums:
                if x.numel() <= sums.capacity:
                    return sums(x)
        return self._inner.all_reduce(x)


def with_peer_memory(inner: TensorGroup, meeting: Meeting, device: torch.device) -> TensorGroup:
    """Return `inner` with sums over peer memory, or `inner` itself, with a line in the log, if there is none."""
    from gllm_kernels.triton.peer_sum import EMPTY, OneShotSum, TwoShotSum

    small, large = _ONE_SHOT_BYTES.get(inner.size, _ONE_SHOT_BYTES_OTHERWISE) // 2, _TWO_SHOT_BYTES // 2
    one_shot = OneShotSum.memory_bytes(inner.size, small)
    nbytes = one_shot + TwoShotSum.memory_bytes(inner.size, large)
    try:
        addresses = share(meeting, device, nbytes, EMPTY)
    except NoPeerMemory as reason:
        if inner.rank == 0:
            logger.warning("sums over tensor-parallel ranks go through NCCL: %s", reason)
        return inner
    if inner.rank == 0:
        logger.info(
            "sums over tensor-parallel ranks go through peer memory", extra={"up_to_mib": _TWO_SHOT_BYTES >> 20}
        )
    behind = [address + one_shot for address in addresses]
    sums = [OneShotSum(addresses, inner.rank, small, device), TwoShotSum(behind, inner.rank, large, device)]
    return PeerGroup(inner, sums)
