"""What a group and the nodes beside its own want of each other."""

from __future__ import annotations

from typing import Protocol

from gllm.config import Config
from gllm.wire.messages import ProcessStatus


class OtherNodes(Protocol):
    """What a group needs of the nodes beside its own; `gllm.supervisor.nodes.master.Master` is the real one."""

    async def open(self, config: Config, listener: NodeListener) -> Config:
        """Begin to take nodes in; returns the config with this node's addresses. OSError or ValueError if it cannot."""

    async def complete(self, deadline: float | None) -> None:
        """Returns when all nodes are there; TimeoutError, naming those that are not, after `deadline` seconds."""

    def start_epoch(self, epoch: int) -> None: ...
    def stop_epoch(self, epoch: int, reason: str, *, hung: bool) -> None:
        """hung: their workers' stacks are wanted in the log first."""

    def environment(self) -> dict[str, str]:
        """What this node's engine and workers must find in theirs: the keys."""

    async def close(self, failure: str) -> None: ...


class NodeListener(Protocol):
    """What the other nodes tell a group."""

    def on_status(self, status: ProcessStatus) -> None: ...
    def bring_down(self, reason: str) -> None: ...
    def note(self, text: str) -> None: ...
