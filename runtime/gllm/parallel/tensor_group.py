"""The collectives that layers need, between the ranks of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist

from gllm.parallel.exchange import exchange


class TensorGroup(Protocol):
    """The tensor-parallel ranks of one stage. Every rank calls the same methods in the same order."""

    size: int
    rank: int

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks; may overwrite x, which is contiguous."""

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Return [size, ...], in rank order. x: [...] contiguous, of the same shape on every rank."""

    def all_to_all(self, x: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """Exchange rows. x: [sum(sent), ...], the rows for each rank in turn. Returns [sum(received), ...] likewise."""

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Return the x of rank 0 on every rank; overwrites x, which is contiguous."""


class SingleRankGroup:
    """A stage of one rank: there is nothing to exchange."""

    size = 1
    rank = 0

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(0)

    def all_to_all(self, x: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        return x

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        return x


SINGLE_RANK = SingleRankGroup()


class UnconnectedGroup(SingleRankGroup):
    """A rank of a group without connections, for estimates of what the rank will hold."""

    def __init__(self, size: int, rank: int) -> None:
        self.size = size
        self.rank = rank


class DistributedGroup:
    """Collectives over torch.distributed: NCCL between GPUs, gloo between CPUs."""

    def __init__(self, group: dist.ProcessGroup, ranks: Sequence[int], rank: int) -> None:
        self.size = len(ranks)
        self.rank = rank
        self._group = group
        self._first = ranks[0]

    @exchange
    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x, group=self._group)
        return x

    @exchange
    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty((self.size, *x.shape))
        dist.all_gather(list(out.unbind(0)), x, group=self._group)
        return out

    @exchange
    def all_to_all(self, x: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        out = x.new_empty((sum(received), *x.shape[1:]))
        dist.all_to_all_single(out, x, list(received), list(sent), group=self._group)
        return out

    @exchange
    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        dist.broadcast(x, self._first, group=self._group)
        return x


class StagedGroup:
    """Collectives of CUDA tensors through the CPU, for ranks that share a GPU: NCCL refuses that. Correct, not fast."""

    def __init__(self, inner: DistributedGroup) -> None:
        self.size = inner.size
        self.rank = inner.rank
        self._inner = inner

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return self._inner.all_reduce(x.cpu()).to(x.device)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return self._inner.all_gather(x.cpu()).to(x.device)

    def all_to_all(self, x: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        return self._inner.all_to_all(x.cpu(), sent, received).to(x.device)

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(self._inner.broadcast(x.cpu()))
