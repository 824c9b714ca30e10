"""ZeroMQ sockets and the MessagePack codec, the same for every pair of processes."""

from __future__ import annotations

from typing import Any

import msgspec
import zmq

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Maximum frame size; ZeroMQ disconnects a peer that sends more."""

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def decoder(message_types: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return a decoder for a union of message classes; it raises msgspec.DecodeError for other input."""
    return msgspec.msgpack.Decoder(message_types)


def configure_socket(socket: Any, identity: str | None = None) -> None:
    """Set the options of all our sockets: bounded frames, unbounded queues, no linger."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    if identity is not None:
        socket.setsockopt(zmq.IDENTITY, identity.encode())
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)


def detect_lost_peers(socket: Any) -> None:
    """Close TCP connections whose peer does not answer: a machine that is lost says nothing. For both ends."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)


def worker_identity(rank: int, epoch: int, purpose: str = "") -> str:
    """Return the identity of a worker's socket. It has the epoch: with several nodes all epochs share a port."""
    return f"worker-{rank}{'-' if purpose else ''}{purpose}@{epoch}"
