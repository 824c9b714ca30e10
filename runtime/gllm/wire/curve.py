"""CURVE keys of a group whose nodes talk over a network: made once, the same on every node, never in a config.

One text holds two secrets, `HEX.HEX`: the one that servers prove themselves with and the one that clients do. A
server lets in only clients with the group's own client key.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

KEYS_VARIABLE = "GLLM_KEYS"
"""The text of the keys, in the environment of a supervisor and of its engine and workers."""

_DOMAIN = "gllm"
_TEXT = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})")


class Keys(msgspec.Struct, frozen=True):
    """Two secret keys in Z85, as ZeroMQ takes them."""

    server_secret: bytes
    client_secret: bytes

    @property
    def server_public(self) -> bytes:
        return zmq.curve_public(self.server_secret)

    @property
    def client_public(self) -> bytes:
        return zmq.curve_public(self.client_secret)

    def text(self) -> str:
        return f"{z85.decode(self.server_secret).hex()}.{z85.decode(self.client_secret).hex()}"

    def __repr__(self) -> str:
        return "Keys(...)"  # Nothing secret in a traceback or a log.


def make_keys() -> Keys:
    return Keys(zmq.curve_keypair()[1], zmq.curve_keypair()[1])


def parse_keys(text: str, where: str) -> Keys:
    """Keys from the text of a file or of an environment variable; lines that begin with # are comments."""
    lines = [line.strip() for line in text.splitlines()]
    found = _TEXT.fullmatch("".join(line for line in lines if not line.startswith("#")))
    if found is None:
        raise ValueError(f"{where} has no keys that `gllm keys` made (two numbers of 64 hexadecimal digits)")
    return Keys(z85.encode(bytes.fromhex(found[1])), z85.encode(bytes.fromhex(found[2])))


def read_keys(path: str) -> Keys:
    """Keys from a file, or with an empty path from the environment. ValueError says what is wrong and the fix."""
    if path:
        try:
            return parse_keys(Path(path).expanduser().read_text(), path)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text"
            raise ValueError(f"--keys-file: {path} cannot be read: {reason}") from None
    text = os.environ.get(KEYS_VARIABLE, "")
    if not text:
        raise ValueError(
            f"several nodes need keys: `gllm keys --output FILE` makes them once; give every node the same file "
            f"with --keys-file FILE, or its content in {KEYS_VARIABLE}"
        )
    return parse_keys(text, KEYS_VARIABLE)


def keys_of_group() -> Keys:
    """For an engine or worker, whose supervisor has put the keys into the environment."""
    return parse_keys(os.environ.get(KEYS_VARIABLE, ""), KEYS_VARIABLE)


def secure_server(socket: Any, keys: Keys) -> None:
    """Before bind: only clients with the group's client key get in, once a `Gatekeeper` runs in the context."""
    socket.curve_secretkey = keys.server_secret
    socket.curve_publickey = keys.server_public
    socket.curve_server = True
    socket.zap_domain = _DOMAIN.encode()
    socket.ipv6 = True


def secure_client(socket: Any, keys: Keys) -> None:
    """Before connect."""
    socket.curve_serverkey = keys.server_public
    socket.curve_secretkey = keys.client_secret
    socket.curve_publickey = keys.client_public
    socket.ipv6 = True


class Gatekeeper:
    """Answers ZeroMQ's question (ZAP, RFC 27) whether a client may come in, for all secured servers of one context.

    Must run before the sockets bind; without one ZeroMQ would let in whoever knows the server's public key.
    """

    def __init__(self, context: zmq.Context[Any], keys: Keys) -> None:
        self._allowed = z85.decode(keys.client_public)
        self._socket: zmq.Socket[bytes] = zmq.Socket(zmq.Context.shadow(context.underlying), zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")
        self._thread = threading.Thread(target=self._answer, name="gatekeeper", daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        """Until the context ends."""
        with contextlib.suppress(zmq.ContextTerminated):
            while True:
                version, request, _, _, _, mechanism, *credentials = self._socket.recv_multipart()
                allowed = mechanism == b"CURVE" and credentials == [self._allowed]
                verdict = (b"200", b"OK") if allowed else (b"400", b"unknown key")
                self._socket.send_multipart([version, request, *verdict, b"", b""])
        self._socket.close()
