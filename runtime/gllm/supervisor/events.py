"""What a group tells whoever runs it."""

from __future__ import annotations

import msgspec

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
    """The group ended and will not come back. `reason` is one line for the user."""

    reason: str


class Note(msgspec.Struct, frozen=True):
    """One line for the terminal: a node joined, was refused, left."""

    text: str


GroupEvent = ProcessStatus | EngineUp | EngineReady | EngineDown | Restarting | GroupFailed | Note


class GroupError(Exception):
    """The group failed; str(error) is the one line that says why."""
