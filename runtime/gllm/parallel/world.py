"""Joins the ranks of a process group: torch.distributed, the groups of each stage and the links between stages."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from gllm.parallel.layout import RankCoords
from gllm.parallel.peer_group import with_peer_memory
from gllm.parallel.peer_memory import Meeting
from gllm.parallel.stage_link import (
    DistributedReceiver,
    DistributedSender,
    Receiver,
    Sender,
    StagedReceiver,
    StagedSender,
)
from gllm.parallel.tensor_group import SINGLE_RANK, DistributedGroup, StagedGroup, TensorGroup

_PAIR_CTAS = 4
"""Streaming multiprocessors that a stage-to-stage transfer may use. Ten megabytes still take under 1 ms on NVLink."""
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


def join_world(coords: RankCoords, *, hidden_size: int, dtype: torch.dtype, device: torch.device) -> World:
    """Connect to the other ranks at MASTER_ADDR:MASTER_PORT (torch's variables). Returns when all have joined.

    Raises RuntimeError (torch's DistError) if they do not join within JOIN_SECONDS.
    """
    if coords.pp * coords.tp == 1:
        return World(coords)
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
                    meeting = Meeting(PrefixStore(f"sums/{stage}", store), ranks, coords.rank)
                    group = with_peer_memory(inner, meeting, device)
    before: Receiver | None = None
    after: Sender | None = None
    wire = torch.device("cpu") if backend == "gloo" else device
    for source in range((coords.pp - 1) * coords.tp):
        target = source + coords.tp
        pair = dist.new_group([source, target], backend=backend, pg_options=_pair_options(backend))
        if target == coords.rank:
            receiver = DistributedReceiver(pair, source, hidden_size, dtype, wire)
            before = StagedReceiver(receiver, device) if staged else receiver
        if source == coords.rank:
            sender = DistributedSender(pair, target)
            after = StagedSender(sender) if staged else sender
    return World(coords, group, before, after, staged)


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
