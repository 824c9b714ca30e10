"""All messages between the supervisors of two nodes, with the same rules as `gllm.wire.messages`.

slave  -> master   Join | NodeStatus | NodeExit | Leaving | Heartbeat
master -> slave    Welcome | Refuse | StartEpoch | StopEpoch | Goodbye | Heartbeat
"""

from __future__ import annotations

import msgspec

from gllm.config import EngineConfig
from gllm.wire.base import Message
from gllm.wire.messages import ProcessStatus

PROTOCOL = 6
"""Increases with each change of a message between nodes; nodes with different numbers do not work together."""


class ParallelConfig(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Numbers of nodes and ranks, and the layers of each stage; the same on every node."""

    nnodes: int
    pp: int
    tp: int
    ep: int
    assigned_layers: tuple[int, ...]


class ModelDigest(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Identifies the content of a model folder or file."""

    config: str
    """SHA-256 of the configuration."""
    tensors: str
    """SHA-256 of names, types and shapes of all tensors; empty with dummy weights."""
    num_tensors: int
    num_bytes: int


class Join(Message, kw_only=True):
    """A slave asks to join. `protocol` and `version` are the first fields in every version, so that the master can
    refuse a node of another version with a clear reason."""

    protocol: int
    version: str
    node_rank: int
    host: str
    """The slave's own address, for log lines."""
    parallel: ParallelConfig
    model: ModelDigest


class Welcome(Message):
    """The slave has joined. All ranks use the master's settings."""

    engine: EngineConfig


class Refuse(Message):
    reason: str
    retry: bool
    """Whether the node may join later."""


class StartEpoch(Message):
    """End the running workers, then start this node's workers of a new epoch."""

    epoch: int


class StopEpoch(Message):
    """End the workers of this epoch; if they hang, log their stacks first."""

    epoch: int
    reason: str
    hung: bool


class NodeStatus(Message):
    """The state of a slave's worker."""

    status: ProcessStatus


class NodeExit(Message):
    """A slave's worker exited, or could not be started."""

    epoch: int
    reason: str


class Leaving(Message):
    """The slave got SIGTERM; it runs until the master ends, at most `seconds`."""

    seconds: float


class Goodbye(Message):
    """The master ends; `failure` is the reason, or empty."""

    failure: str


class Heartbeat(Message):
    pass


SlaveToMaster = Join | NodeStatus | NodeExit | Leaving | Heartbeat
MasterToSlave = Welcome | Refuse | StartEpoch | StopEpoch | Goodbye | Heartbeat
