"""A tensor-parallel group whose all-reduces go through peer memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch

from gllm.parallel.peer_memory import NoPeerMemory, Rendezvous, share
from gllm.parallel.tensor_group import TensorGroup

logger = logging.getLogger(__name__)

_ONE_SHOT_BYTES = {2: 5 << 20, 3: 640 << 10, 4: 256 << 10}
"""Largest one-shot all-reduce by group size: its bytes grow with the group, a two-shot one's hardly. Measured for two
ranks; for others computed from the latency and the bandwidth that two have (docs/performance.md)."""
_ONE_SHOT_BYTES_OTHERWISE = 64 << 10
_TWO_SHOT_BYTES = 24 << 20
"""Largest all-reduce that does not go to NCCL: 2400 tokens of 5120 values."""


class AllReduce(Protocol):
    """All-reduce of 16-bit values, in place. See `gllm_kernels.triton.peer_all_reduce`."""

    capacity: int
    """Maximum number of values."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class PeerGroup:
    """Reduces 16-bit values by the first of `all_reduces` with room for them, and does all else as `inner` does it.

    The choice depends on size and type, so all ranks choose alike.
    """

    def __init__(self, inner: TensorGroup, all_reduces: Sequence[AllReduce]) -> None:
        self.size = inner.size
        self.rank = inner.rank
        self._inner = inner
        self._all_reduces = all_reduces
        self.all_gather = inner.all_gather
        self.all_to_all = inner.all_to_all
        self.broadcast = inner.broadcast

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if x.itemsize == 2 and x.is_floating_point():
            for all_reduce in self._all_reduces:
                if x.numel() <= all_reduce.capacity:
                    return all_reduce(x)
        return self._inner.all_reduce(x)


def with_peer_memory(inner: TensorGroup, rendezvous: Rendezvous, device: torch.device) -> TensorGroup:
    """Return `inner` with all-reduces through peer memory, or `inner` and a line in the log without it."""
    from gllm_kernels.triton.peer_all_reduce import EMPTY, OneShotAllReduce, TwoShotAllReduce

    small, large = _ONE_SHOT_BYTES.get(inner.size, _ONE_SHOT_BYTES_OTHERWISE) // 2, _TWO_SHOT_BYTES // 2
    one_shot = OneShotAllReduce.memory_bytes(inner.size, small)
    nbytes = one_shot + TwoShotAllReduce.memory_bytes(inner.size, large)
    try:
        addresses = share(rendezvous, device, nbytes, EMPTY)
    except NoPeerMemory as reason:
        if inner.rank == 0:
            logger.warning("all-reduces of tensor-parallel ranks go through NCCL: %s", reason)
        return inner
    if inner.rank == 0:
        logger.info(
            "all-reduces of tensor-parallel ranks go through peer memory", extra={"up_to_mib": _TWO_SHOT_BYTES >> 20}
        )
    behind = [address + one_shot for address in addresses]
    return PeerGroup(
        inner,
        [
            OneShotAllReduce(addresses, inner.rank, small, device),
            TwoShotAllReduce(behind, inner.rank, large, device),
        ],
    )
