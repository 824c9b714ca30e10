"""Sends tokens to the ranks that own their experts, and the results back: two all-to-alls around the products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gllm.parallel.tensor_group import TensorGroup

Route = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Dispatch:
    """After attention every rank has every token. Each rank takes an equal share of them and sends each token once to
    every rank of the expert groups that own some of its experts. It adds up the results. Then all ranks gather all
    shares.

    The number of rows for each rank is known only after routing, and the host needs it. On CUDA the host waits for the
    device once per layer, so steps with ep > 1 cannot be captured in a graph.
    """

    def __init__(self, group: TensorGroup, ep: int, num_experts: int, k: int) -> None:
        assert group.size % ep == 0
        assert num_experts % ep == 0
        self.group = group
        self.ranks_per_group = group.size // ep
        self.experts_per_group = num_experts // ep
        self.k = k

    def __call__(self, x: torch.Tensor, route: Route, compute: Compute) -> torch.Tensor:
        """x: [n, hidden], the same on every rank. Returns [n, hidden] on every rank.

        route: returns the experts and weights of m tokens, [m, k] each. compute: returns a rank's part of the sums, as
        `Experts` does.
        """
        size, rank = self.group.size, self.group.rank
        share = -(-len(x) // size)
        mine = x[share * rank : share * (rank + 1)]
        chosen, weights = route(mine) if len(mine) else self._empty_routing(x)
        owner = torch.arange(size, device=x.device) // self.ranks_per_group
        # [ranks, tokens, k]: whether the rank is in the group that owns the expert.
        owns = (chosen // self.experts_per_group).unsqueeze(0) == owner.view(-1, 1, 1)
        wants = owns.any(dim=2)
        counts = self.group.all_gather(wants.sum(dim=1)).tolist()
        sent, received = counts[rank], [row[rank] for row in counts]
        # (rank, token) pairs in order of rank, as all_to_all takes them.
        pairs = torch.argsort(wants.reshape(-1).logical_not().to(torch.int8), stable=True)[: sum(sent)]
        target, token = pairs // max(1, len(mine)), pairs % max(1, len(mine))
        local = torch.where(owns, chosen % self.experts_per_group, -1)[target, token]
        rows = self.group.all_to_all(mine[token], sent, received)
        # Expert numbers are exact in float32, so one message carries both.
        routing = self.group.all_to_all(torch.cat((local.float(), weights[token]), dim=1), sent, received)
        if len(rows):
            rows = compute(rows, routing[:, : self.k].to(torch.int32), routing[:, self.k :].contiguous())
        parts = x.new_zeros(size, share, x.shape[1])
        # Added in order of rank, so that results are the same bit for bit.
        parts[target, token] = self.group.all_to_all(rows, received, sent)
        return self.group.all_gather(parts.sum(dim=0)).flatten(0, 1)[: len(x)]

    def _empty_routing(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the routing of an empty share, for fewer tokens than ranks."""
        return (
            torch.empty(0, self.k, dtype=torch.int32, device=x.device),
            torch.empty(0, self.k, dtype=torch.float32, device=x.device),
        )
