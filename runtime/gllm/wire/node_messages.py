"""Every message between the supervisors of two nodes, of the same kind and with the same rules as `gllm.wire.messages`.

slave  -> master   Join | NodeStatus | NodeExit | Leaving | Heartbeat
master -> slave    Welcome | Refuse | StartEpoch | StopEpoch | Goodbye | Heartbeat
"""

from __future__ import annotations

import msgspec

from gllm.config import EngineConfig
from gllm.wire.messages import Message, ProcessStatus

PROTOCOL = 3
"""Grows with every change of what crosses a process boundary between nodes; different ones do not work together."""


class ParallelConfig(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How the ranks are laid out; the same on every node."""

    nnodes: int
    pp: int
    tp: int
    ep: int
    assigned_layers: tuple[int, ...]


class ModelDigest(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a model folder or file holds, whatever its path."""

    config: str
    """SHA-256 of the configuration."""
    tensors: str
    """SHA-256 of names, types and shapes of all tensors; empty with dummy weights."""
    num_tensors: int
    num_bytes: int


class Join(Message, kw_only=True):
    """A slave asks to be part of the group. `protocol` and `version` stay the first fields for ever, so that nodes of
    different versions can tell each other so."""

    protocol: int
    version: str
    node_rank: int
    host: str
    """The slave's own address, for messages."""
    parallel: ParallelConfig
    model: ModelDigest


class Welcome(Message):
    """The slave is in. All settings that the ranks share are the master's."""

    engine: EngineConfig


class Refuse(Message):
    reason: str
    retry: bool
    """Whether the same request may be granted later."""


class StartEpoch(Message):
    """End what runs, then start this node's workers."""

    epoch: int


class StopEpoch(Message):
    """End the workers of this epoch at once, or when their stacks are in the log."""

    epoch: int
    reason: str
    hung: bool


class NodeStatus(Message):
    """A slave's worker reports."""

    status: ProcessStatus


class NodeExit(Message):
    """A slave's worker ended, or could not be started."""

    epoch: int
    reason: str


class Leaving(Message):
    """The slave was asked to end (SIGTERM); it stays for `seconds`, or until the master ends."""

    seconds: float


class Goodbye(Message):
    """The master ends; a `failure` is why, empty if it was asked to."""

    failure: str


class Heartbeat(Message):
    pass


SlaveToMaster = Join | NodeStatus | NodeExit | Leaving | Heartbeat
MasterToSlave = Welcome | Refuse | StartEpoch | StopEpoch | Goodbye | Heartbeat
