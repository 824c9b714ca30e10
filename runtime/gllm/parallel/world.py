"""Joins the ranks of a process group: torch.distributed, the groups of each stage and the links between stages."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from gllm.parallel.copy_link import share_link
from gllm.parallel.layout import RankCoords
from gllm.parallel.peer_group import with_peer_memory
from gllm.parallel.peer_memory import NoPeerMemory, Rendezvous
from gllm.parallel.stage_link import (
    DistributedReceiver,
    DistributedSender,
    Loopback,
    Receiver,
    Sender,
    StagedReceiver,
    StagedSender,
)
from gllm.parallel.tensor_group import SINGLE_RANK, DistributedGroup, StagedGroup, TensorGroup

logger = logging.getLogger(__name__)

_PAIR_CTAS = 1
"""Streaming multiprocessors that NCCL may use for a transfer between stages: they spin until the other end is ready.
With one, products beside it take 5 % longer; with two or four 24 %, since their tiles then need another wave."""
JOIN_SECONDS = 300
"""Time that ranks wait for each other at the start. Loading comes later."""


@dataclass(frozen=True)
class World:
    """The connections of one rank to the others."""

    coords: RankCoords
    group: TensorGroup = SINGLE_RANK
    before: Receiver | None = None
    """None on the first stage."""
    after: Sender | None = None
    """None on the last stage."""
    from_last: Receiver | None = None
    """Sampled tokens from the last stage; None unless this is the first stage."""
    to_first: Sender | None = None
    """Sampled tokens to the first stage; None unless this is the last stage."""
    staged: bool = False
    """Whether CUDA tensors go through the CPU, because ranks share a GPU. No graph can hold such a collective."""


def local_device(kind: str) -> torch.device:
    """Return this rank's device: the GPU of its LOCAL_RANK; with more ranks than GPUs, ranks share them in turn."""
    if kind != "cuda":
        return torch.device(kind)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def ranks_per_device(device: torch.device) -> int:
    """Return the number of ranks that share this node's busiest GPU; 1 on the CPU."""
    if device.type != "cuda":
        return 1
    return -(-int(os.environ.get("LOCAL_WORLD_SIZE", "1")) // torch.cuda.device_count())


def ranks_beside(rank: int, device: torch.device) -> list[int]:
    """Return the ranks that share this rank's memory, and itself: all ranks of its GPU, or on a CPU of its node."""
    local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    step = torch.cuda.device_count() if device.type == "cuda" else 1
    return [rank - local_rank + local for local in range(local_rank % step, count, step)]


def join_world(
    coords: RankCoords,
    *,
    hidden_size: int,
    most_tokens: int,
    most_sampled: int,
    dtype: torch.dtype,
    device: torch.device,
) -> World:
    """Connect to the other ranks at MASTER_ADDR:MASTER_PORT (torch's variables). Returns when all have joined.

    most_tokens, most_sampled: maximum number of tokens of a step, and of rows that sample.
    Raises RuntimeError (torch's DistError) if they do not join within JOIN_SECONDS.
    """
    loop = Loopback() if coords.pp == 1 else None
    if coords.pp * coords.tp == 1:
        return World(coords, from_last=loop, to_first=loop)
    staged = device.type == "cuda" and ranks_per_device(device) > 1
    backend = "nccl" if device.type == "cuda" and not staged else "gloo"
    timeout = timedelta(seconds=JOIN_SECONDS)
    store = _store(coords, timeout)
    dist.init_process_group(
        backend,
        store=store,
        rank=coords.rank,
        world_size=coords.pp * coords.tp,
        timeout=timeout,
        device_id=device if backend == "nccl" else None,
    )
    # Every rank makes every group, in the same order: torch's rule.
    group: TensorGroup = SINGLE_RANK
    if coords.tp > 1:
        for stage in range(coords.pp):
            ranks = list(range(stage * coords.tp, (stage + 1) * coords.tp))
            made = dist.new_group(ranks, backend=backend)
            if stage == coords.stage:
                inner = DistributedGroup(made, ranks, coords.tp_rank)
                group = StagedGroup(inner) if staged else inner
                if backend == "nccl":
                    rendezvous = Rendezvous(PrefixStore(f"all-reduce/{stage}", store), ranks, coords.rank)
                    group = with_peer_memory(inner, rendezvous, device)
    if coords.pp == 1:
        return World(coords, group, from_last=loop, to_first=loop, staged=staged)
    make = partial(_link, coords, store=store, backend=backend, device=device, staged=staged)
    before = after = from_last = to_first = None
    for source in range((coords.pp - 1) * coords.tp):
        receiver, sender = make(source, source + coords.tp, (most_tokens, hidden_size), dtype)
        before, after = receiver or before, sender or after
    for target in range(coords.tp):
        source = (coords.pp - 1) * coords.tp + target
        # The first stage reads tokens when it needs them, at the latest pp + 1 steps later. The sender must not wait
        # for that: after the last request no tokens are read, and a waiting stream would block device synchronisations.
        receiver, sender = make(source, target, (most_sampled,), torch.int64, most_unread=coords.pp + 1)
        from_last, to_first = receiver or from_last, sender or to_first
    return World(coords, group, before, after, from_last, to_first, staged)


def _link(
    coords: RankCoords,
    source: int,
    target: int,
    largest: tuple[int, ...],
    dtype: torch.dtype,
    *,
    most_unread: int = 0,
    store: TCPStore,
    backend: str,
    device: torch.device,
    staged: bool,
) -> tuple[Receiver | None, Sender | None]:
    """Make one link, as every rank must; return the ends that this rank has. largest, most_unread: see `share_link`.

    Between GPUs that share memory, copy engines move the data; otherwise a group of torch.distributed does.
    """
    if backend == "nccl":
        names = PrefixStore(f"link/{source}-{target}", store)
        ends: tuple[Receiver | None, Sender | None] = (None, None)
        if coords.rank in (source, target):
            try:
                ends = share_link(Rendezvous(names, [source, target], coords.rank), device, largest, dtype, most_unread)
                names.set("outcome", "shared")
            except NoPeerMemory as reason:
                names.set("outcome", str(reason))
        outcome = names.get("outcome").decode()  # all ranks must know whether there will be a group
        if outcome == "shared":
            if coords.rank == target:
                logger.info("data from rank %d come through peer memory", source)
            return ends
        if coords.rank == target:
            logger.warning("data from rank %d come through NCCL: %s", source, outcome)
    pair = dist.new_group([source, target], backend=backend, pg_options=_pair_options(backend))
    wire = torch.device("cpu") if backend == "gloo" else device
    receiver: Receiver | None = None
    sender: Sender | None = None
    if target == coords.rank:
        inner = DistributedReceiver(pair, source, largest[1:], dtype, wire)
        receiver = StagedReceiver(inner, device) if staged else inner
    if source == coords.rank:
        outer = DistributedSender(pair, target, most_unsent=2 * (coords.pp + 1))
        sender = StagedSender(outer) if staged else outer
    return receiver, sender


def _pair_options(backend: str) -> Any:
    """Return the options of a stage link. A transfer waits on the device while its peer computes, so it may hold only
    few of the multiprocessors that compute needs."""
    if backend != "nccl":
        return None
    options = dist.ProcessGroupNCCL.Options()
    options.config.max_ctas = _PAIR_CTAS
    return options


def _store(coords: RankCoords, timeout: timedelta) -> TCPStore:
    """Return the ranks' store. Rank 0 listens at MASTER_ADDR only; by default, torch listens on every address."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    world = coords.pp * coords.tp
    if coords.rank != 0:
        return TCPStore(host, port, world, is_master=False, timeout=timeout)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(world)
    return TCPStore(
        host, port, world, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def leave_world() -> None:
    """Drop the process groups, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()
