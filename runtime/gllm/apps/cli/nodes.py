"""Flags of `gllm serve` for a process group of several nodes, their environment variables, and checks of both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import typer

from gllm.apps.cli.flag import Flag
from gllm.config import Config, EngineConfig, NodesConfig

_PANEL = "Nodes"


def _node(name: str, help: str, **more: Any) -> Flag:
    return Flag(owner=NodesConfig, name=name, panel=_PANEL, help=help, optional=True, **more)


NODES_FLAGS: tuple[Flag, ...] = (
    _node("launch_mode", "master: serves, with the first stages; slave: runs later stages for a master.",
          shown_default="normal"),
    _node("nnodes", "Nodes of the process group; --pp must be a multiple of it.", shown_default="1"),
    _node("node_rank", "The number of this node; the master is 0.", shown_default="0"),
    _node("master_addr", "Address or DNS name at which the nodes find the master.", shown_default=False),
    _node("master_port", "First of three ports on the master.", shown_default="29500"),
    _node("node_addr", "Address on which this node listens.", shown_default="that of the route to the master"),
    _node("engine_port", "Port on which the engine also serves the gateways of other machines (`gllm gateway`).",
          least=0, most=65535, shown_default="none"),
    _node("join_timeout", "Seconds within which the nodes must find each other.", shown_default="600"),
    _node("heartbeat_timeout", "Seconds of silence after which a node is lost.", shown_default="5"),
)  # fmt: skip

_VARIABLES = {
    "launch_mode": "GLLM_LAUNCH_MODE",
    "nnodes": "NNODES",
    "node_rank": "NODE_RANK",
    "master_addr": "MASTER_ADDR",
    "master_port": "MASTER_PORT",
    "node_addr": "GLLM_NODE_ADDR",
    "engine_port": "GLLM_ENGINE_PORT",
    "join_timeout": "GLLM_JOIN_TIMEOUT",
    "heartbeat_timeout": "GLLM_HEARTBEAT_TIMEOUT",
}
"""Field to environment variable. Those without GLLM_ are torch's. They apply only if the launch mode is not normal,
because other programs set them too."""


def make_nodes(flags: Mapping[str, Any], engine: EngineConfig, environment: Mapping[str, str]) -> NodesConfig:
    """Make the config from flags (None: not given) and environment; flags win. Raises typer.BadParameter."""
    given = {name: value for name, value in flags.items() if value is not None}
    mode = given.get("launch_mode") or environment.get(_VARIABLES["launch_mode"]) or "normal"
    names = set(_VARIABLES) if mode != "normal" else set()
    if given.get("engine_port") or environment.get(_VARIABLES["engine_port"]):
        names |= {"engine_port", "node_addr"}  # A group of one node may serve gateways of other machines too.
    for name, variable in _VARIABLES.items():
        if environment.get(variable) and name in names:
            given.setdefault(name, _number(name, variable, environment[variable]))
    try:
        nodes = msgspec.convert(given, NodesConfig)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"{_VARIABLES['launch_mode']}={mode}: {error}") from None
    from gllm.supervisor.nodes.placement import check_nodes

    try:
        check_nodes(engine, nodes)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if mode == "normal":
        return nodes
    _check_world(engine, nodes, environment)
    if "master_addr" not in given:
        if mode == "slave" or not nodes.node_addr:
            raise typer.BadParameter(
                "say at which address or DNS name the nodes find the master", param_hint="--master-addr"
            )
        nodes = msgspec.structs.replace(nodes, master_addr=nodes.node_addr)
    return nodes


def _number(name: str, variable: str, text: str) -> Any:
    try:
        if name in ("nnodes", "node_rank", "master_port", "engine_port"):
            return int(text)
        return float(text) if name in ("join_timeout", "heartbeat_timeout") else text
    except ValueError:
        raise typer.BadParameter(
            f"{variable}={text} in the environment is not a number; set it, or give --{name.replace('_', '-')}"
        ) from None


def _check_world(engine: EngineConfig, nodes: NodesConfig, environment: Mapping[str, str]) -> None:
    """Check WORLD_SIZE and LOCAL_WORLD_SIZE, where they are set, against the parallel config."""
    world = engine.world_size
    for variable, size in (("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", world // nodes.nnodes)):
        text = environment.get(variable)
        if text and text != str(size):
            raise typer.BadParameter(
                f"{variable}={text} in the environment, but --pp {engine.pp}, --tp {engine.tp} and --nnodes "
                f"{nodes.nnodes} make {size}"
            )


def with_nodes(config: Config, flags: Mapping[str, Any]) -> Config:
    nodes = make_nodes(flags, config.engine, os.environ)
    return msgspec.structs.replace(config, nodes=nodes)
