"""CURVE keys of a deployment's groups, in the text form of `gllm keys` (`gllm.wire.curve`), without ZeroMQ."""

from __future__ import annotations

import secrets


def make_keys() -> str:
    """Two secrets: any 32 bytes are a Curve25519 key."""
    return f"{secrets.token_hex(32)}.{secrets.token_hex(32)}"
