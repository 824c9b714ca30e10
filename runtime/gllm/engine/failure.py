"""What ends an engine."""

from __future__ import annotations


class EngineFailure(Exception):
    """The engine cannot go on; str(e) is one line for the log and the supervisor."""


class WorkersHang(EngineFailure):
    """A step has no result: what the workers do meanwhile is worth a look, before they are killed."""
