"""ZeroMQ sockets and the MessagePack codec, the same for every pair of processes."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest frame a socket accepts; a peer that sends more is disconnected by ZeroMQ."""

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def decoder(message_types: Any) -> msgspec.msgpack.Decoder[Any]:
    """A typed decoder for a union of message classes; raises msgspec.DecodeError on anything else."""
    return msgspec.msgpack.Decoder(message_types)


def configure_socket(socket: Any, identity: str | None = None) -> None:
    """Set the options all our sockets share: bounded frames, no lingering, no silent drops of routed messages."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    if identity is not None:
        socket.setsockopt(zmq.IDENTITY, identity.encode())
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)


def worker_identity(rank: int, epoch: int, purpose: str = "") -> str:
    """What a worker's socket is called on the engine's port, which with several nodes is the same for all epochs."""
    return f"worker-{rank}{'-' if purpose else ''}{purpose}@{epoch}"
