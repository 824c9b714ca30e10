"""Events of a process group, and the interfaces between the group and the other nodes."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gllm.config import Config
from gllm.wire.messages import EngineDown, EngineUp, ProcessStatus


class EngineReady(msgspec.Struct, frozen=True):
    """The engine of this epoch serves."""

    epoch: int


class Restarting(msgspec.Struct, frozen=True):
    """The next epoch starts after `delay` seconds."""

    epoch: int
    delay: float
    reason: str


class GroupFailed(msgspec.Struct, frozen=True):
    """The group ended and will not restart. `reason` is one line for the user."""

    reason: str


class Note(msgspec.Struct, frozen=True):
    """One line for the terminal: a node joined, was refused, or was lost."""

    text: str


GroupEvent = ProcessStatus | EngineUp | EngineReady | EngineDown | Restarting | GroupFailed | Note


class GroupError(Exception):
    """The group failed; str(error) is one line that gives the reason."""


class OtherNodes(Protocol):
    """The methods that a group calls on the other nodes; `gllm.supervisor.nodes.master.Master` implements it."""

    async def open(self, config: Config, listener: NodeListener) -> Config:
        """Begin to accept nodes; returns the config with this node's addresses. Raises OSError or ValueError."""

    async def complete(self, deadline: float | None) -> None:
        """Wait until all nodes have joined. Raises TimeoutError, which names the missing nodes, after `deadline` s."""

    def start_epoch(self, epoch: int) -> None:
        """Start the workers of the other nodes."""

    def stop_epoch(self, epoch: int, reason: str, *, hung: bool) -> None:
        """End the workers of the other nodes. With `hung`, each node logs their stacks first."""

    def environment(self) -> dict[str, str]:
        """Return environment variables for this node's engine and workers: the keys."""

    async def close(self, failure: str) -> None:
        """Tell the other nodes that the group ends; `failure` is the reason, or empty."""


class NodeListener(Protocol):
    """The methods that the other nodes call on a group; `gllm.supervisor.group.EngineGroup` implements it."""

    def on_status(self, status: ProcessStatus) -> None: ...
    def bring_down(self, reason: str) -> None: ...
    def note(self, text: str) -> None: ...
