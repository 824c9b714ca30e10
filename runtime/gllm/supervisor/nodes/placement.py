"""Assigns the ranks to nodes, and makes the environment of their processes. Nothing here changes any state."""

from __future__ import annotations

import os
import socket

import msgspec

from gllm.config import Config, EngineConfig, NodesConfig


def check_nodes(engine: EngineConfig, nodes: NodesConfig) -> None:
    """Raise ValueError, which names flags and fix, if the stages cannot be spread over the nodes."""
    count, mode = nodes.nnodes, nodes.launch_mode
    if count < 1:
        raise ValueError(f"--nnodes must be at least 1, not {count}")
    if mode == "normal":
        if count > 1:
            raise ValueError(f"--nnodes {count} needs --launch-mode master on the first node, and slave on the others")
        return
    if count < 2:
        raise ValueError(f"--launch-mode {mode} is for several nodes: say how many with --nnodes")
    if engine.pp % count:
        raise ValueError(
            f"--pp {engine.pp} is not a multiple of --nnodes {count}: every node gets the same number of stages"
        )
    if mode == "master" and nodes.node_rank != 0:
        raise ValueError(f"--node-rank {nodes.node_rank} with --launch-mode master: the master's is 0")
    if mode == "slave" and not 0 < nodes.node_rank < count:
        raise ValueError(
            f"--node-rank {nodes.node_rank} with --launch-mode slave: give 1 to {count - 1} (--nnodes - 1)"
        )
    if not 0 < nodes.master_port <= 65533:
        raise ValueError(f"--master-port {nodes.master_port}: three ports from here on must be free, so at most 65533")


def ranks_of(node_rank: int, engine: EngineConfig, nodes: NodesConfig) -> range:
    """Return the ranks on a node: whole stages, in order. rank = stage * tp + tp_rank."""
    count = engine.pp // nodes.nnodes * engine.tp
    return range(node_rank * count, (node_rank + 1) * count)


def local_ranks(config: Config) -> range:
    return ranks_of(config.nodes.node_rank, config.engine, config.nodes)


def worker_config(config: Config) -> Config:
    """Return the config of this node's workers: without `threads`, each gets an equal share of the cores."""
    local = len(local_ranks(config))
    if config.engine.threads or local == 1:
        return config
    threads = max(1, len(os.sched_getaffinity(0)) // local)
    return msgspec.structs.replace(config, engine=msgspec.structs.replace(config.engine, threads=threads))


def rendezvous_of(config: Config) -> tuple[str, int]:
    """Return address and port of torch.distributed's rendezvous; with one node, a free port of the loopback."""
    if config.nodes.nnodes > 1:
        return config.nodes.master_addr, config.nodes.master_port + 2
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", probe.getsockname()[1]


def worker_environment(config: Config, rank: int, rendezvous: tuple[str, int], interface: str | None) -> dict[str, str]:
    """Return the environment variables of one worker, with torch's names.

    interface: the network interface of this node's address; a choice in the user's environment has precedence.
    """
    ranks = local_ranks(config)
    address, port = rendezvous
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - ranks.start),
        "WORLD_SIZE": str(config.engine.world_size),
        "LOCAL_WORLD_SIZE": str(len(ranks)),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment[name] = os.environ.get(name) or interface
    return environment
