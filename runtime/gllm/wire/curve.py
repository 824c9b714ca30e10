"""CURVE keys of a group with several nodes or with gateways on other machines.

They are made once, are the same on every machine, and are never part of a config.

Their text `HEX.HEX` holds two secret keys, the servers' and the clients'. A server accepts only clients that have the
group's client key.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq
from zmq.utils import z85

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

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
    """Parse the text of a file or an environment variable; lines that begin with # are comments. Raises ValueError."""
    lines = [line.strip() for line in text.splitlines()]
    found = _TEXT.fullmatch("".join(line for line in lines if not line.startswith("#")))
    if found is None:
        raise ValueError(f"{where} has no keys that `gllm keys` made (two numbers of 64 hexadecimal digits)")
    return Keys(z85.encode(bytes.fromhex(found[1])), z85.encode(bytes.fromhex(found[2])))


def read_keys(path: str) -> Keys:
    """Read keys from a file, or from the environment if `path` is empty. Raises ValueError, which names the fix."""
    if path:
        try:
            return parse_keys(Path(path).expanduser().read_text(), path)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ValueError(f"--keys-file: {path} cannot be read: {reason}") from None
    text = os.environ.get(KEYS_VARIABLE, "")
    if not text:
        raise ValueError(
            f"several machines need keys: `gllm keys --output FILE` makes them once; give every machine the same file "
            f"with --keys-file FILE, or its content in {KEYS_VARIABLE}"
        )
    return parse_keys(text, KEYS_VARIABLE)


def keys_of_group() -> Keys:
    """Return the keys of an engine or worker: its supervisor has put them into the environment."""
    return parse_keys(os.environ.get(KEYS_VARIABLE, ""), KEYS_VARIABLE)


def secure_server(socket: Any, keys: Keys) -> None:
    """Make a socket a CURVE server, before it binds; an authenticator in its context decides who may connect."""
    socket.curve_secretkey = keys.server_secret
    socket.curve_publickey = keys.server_public
    socket.curve_server = True
    socket.zap_domain = _DOMAIN.encode()
    socket.ipv6 = True


def secure_client(socket: Any, keys: Keys) -> None:
    """Make a socket a CURVE client, before it connects."""
    socket.curve_serverkey = keys.server_public
    socket.curve_secretkey = keys.client_secret
    socket.curve_publickey = keys.client_public
    socket.ipv6 = True


class _ClientKey:
    """A credentials provider that accepts only the group's client key."""

    def __init__(self, keys: Keys) -> None:
        self._allowed = keys.client_public

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client with this public key (Z85) may connect."""
        return key == self._allowed


def start_authenticator(context: zmq.Context[Any], keys: Keys) -> ThreadAuthenticator:
    """Authenticate clients (ZAP, RFC 27) for all secured servers of one context.

    Start it before the sockets bind: without it ZeroMQ accepts every client that knows the server's public key.
    Stop it before the context is destroyed.
    """
    from zmq.auth.thread import ThreadAuthenticator  # It imports asyncio, which an engine of one node does not need.

    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(_DOMAIN, _ClientKey(keys))
    return authenticator
