"""The base of all messages."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, tag=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages, encoded as an array of the class name and the fields in their order."""
